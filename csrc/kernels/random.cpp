#include "kernels/random.hpp"

#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

using std::int32_t;
using std::int64_t;
using std::uint32_t;
using std::uint64_t;

constexpr int lanes = 64;                   // blocks of four words computed together: a tile, kept in the first cache
constexpr int64_t parallel_from = 1 << 15;  // numbers

struct Words {
    uint32_t w[4];
};

/// Ten rounds. Written for one counter; the loops that call it vectorise over counters.
inline Words philox(Words c, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * c.w[0], b = uint64_t{0xCD9E8D57} * c.w[2];
        c = {static_cast<uint32_t>(b >> 32) ^ c.w[1] ^ key0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ c.w[3] ^ key1, static_cast<uint32_t>(a)};
        key0 += 0x9E3779B9;  // the golden ratio
        key1 += 0xBB67AE85;  // sqrt(3) - 1
    }
    return c;
}

void philox4x32(const uint32_t* counter, const uint32_t* key, uint32_t* out, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t* c = counter + 4 * i;
        const Words r = philox({c[0], c[1], c[2], c[3]}, key[2 * i], key[2 * i + 1]);
        for (int j = 0; j < 4; ++j) out[4 * i + j] = r.w[j];
    }
}

/// Where lane i of a tile lies: block of four units, and the words of the counter that depend on the row.
struct Tile {
    alignas(64) uint32_t block[lanes], low[lanes], high[lanes];
    alignas(64) uint32_t words[4][lanes];
    alignas(64) float values[4 * lanes];
};

struct Uniform {
    static float value(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

    static void convert(Tile& t) {
#pragma omp simd
        for (int i = 0; i < lanes; ++i)
            for (int j = 0; j < 4; ++j) t.values[4 * i + j] = value(t.words[j][i]);
    }
};

struct Normal {
    /// sqrt(-2 log u) for u = (word + 1) / 2^32 in (0, 1].
    static float radius(uint32_t word) {
        const float upper = static_cast<float>(static_cast<int32_t>(word >> 16));
        const float lower = static_cast<float>(static_cast<int32_t>(word & 0xffff) + 1);
        const float u = (upper * 65536.0f + lower) * 0x1p-32f;  // rounded once
        // u = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) = 2 atanh(f / (2 + f)).
        constexpr uint32_t root_half = 0x3f3504f3;
        const uint32_t bits = __builtin_bit_cast(uint32_t, u) - root_half;
        const int32_t exponent = static_cast<int32_t>(bits) >> 23;
        const float mantissa = __builtin_bit_cast(float, (bits & 0x7fffff) + root_half);
        const float below_one = static_cast<float>(static_cast<int32_t>(~word)) * -0x1p-32f;  // u - 1 near 1: exact
        const float f = exponent == 0 ? below_one : mantissa - 1.0f;
        const float s = f / (2.0f + f), z = s * s;
        const float series = z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9))));
        const float log = static_cast<float>(exponent) * 0.693147181f + (2.0f * s + s * series);
        return __builtin_sqrtf(-2.0f * log);
    }

    /// cos and sin of 2 pi word / 2^32: the nearest quarter turn exactly in integers, Taylor's series for the rest.
    static void direction(uint32_t word, float& cosine, float& sine) {
        const uint32_t quarter = (word + 0x20000000u) >> 30;
        const int32_t rest = static_cast<int32_t>(word - (quarter << 30));    // [-2^29, 2^29)
        const float x = static_cast<float>(rest) * (1.57079633f * 0x1p-30f);  // [-pi / 4, pi / 4]
        const float z = x * x;
        const float s = x + x * z * (-1.0f / 6 + z * (1.0f / 120 + z * (-1.0f / 5040 + z * (1.0f / 362880))));
        const float c = 1.0f - z * (0.5f - z * (1.0f / 24 - z * (1.0f / 720 - z * (1.0f / 40320))));
        const bool swapped = quarter & 1;
        cosine = with_sign(swapped ? s : c, (quarter + 1) & 2);
        sine = with_sign(swapped ? c : s, quarter & 2);
    }

    /// x, or -x where `negative` is 2.
    static float with_sign(float x, uint32_t negative) {
        return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, x) ^ (negative << 30));
    }

    static void convert(Tile& t) {
#pragma omp simd
        for (int i = 0; i < lanes; ++i)
            for (int j = 0; j < 4; j += 2) {
                float cosine, sine;
                direction(t.words[j + 1][i], cosine, sine);
                const float r = radius(t.words[j][i]);
                t.values[4 * i + j] = r * cosine;
                t.values[4 * i + j + 1] = r * sine;
            }
    }
};

/// Fills a (rows, units) matrix tile by tile: `put(at, values, n)` receives the n values of elements at, at + 1, ...
template <class Distribution, class Put>
void fill(int64_t rows, int64_t units, const int64_t* index, const RandomKey& k, Put put) {
    const uint32_t key0 = static_cast<uint32_t>(k.seed);
    const uint32_t key1 = static_cast<uint32_t>(k.seed >> 32) | static_cast<uint32_t>(k.purpose << 16);
    const uint32_t step = static_cast<uint32_t>(k.step);
    const uint32_t top = static_cast<uint32_t>(k.step >> 32) << 8 | static_cast<uint32_t>(k.substep << 16);
    const int64_t blocks = (units + 3) / 4, all = rows * blocks;
#pragma omp parallel for schedule(static) firstprivate(put) if (rows * units >= parallel_from)
    for (int64_t begin = 0; begin < all; begin += lanes) {
        const int64_t n = all - begin < lanes ? all - begin : lanes;
        const int64_t first_row = begin / blocks, first_block = begin % blocks;
        Tile t;
        int64_t row = first_row, block = first_block;
        for (int64_t i = 0; i < n;) {
            const int64_t run = blocks - block < n - i ? blocks - block : n - i;
            const uint32_t low = static_cast<uint32_t>(index[row]);
            const uint32_t high = static_cast<uint32_t>(index[row] >> 32) | top;
            for (int64_t j = 0; j < run; ++j) {
                t.block[i + j] = static_cast<uint32_t>(block + j);
                t.low[i + j] = low;
                t.high[i + j] = high;
            }
            i += run;
            block = 0;
            ++row;
        }
        for (int64_t i = n; i < lanes; ++i) t.block[i] = t.low[i] = t.high[i] = 0;
#pragma omp simd
        for (int i = 0; i < lanes; ++i) {
            const Words r = philox({t.block[i], t.low[i], step, t.high[i]}, key0, key1);
            for (int j = 0; j < 4; ++j) t.words[j][i] = r.w[j];
        }
        Distribution::convert(t);
        if (units % 4 == 0) {  // neighbouring rows are neighbours in the tile too
            put(begin * 4, t.values, n * 4);
            continue;
        }
        row = first_row, block = first_block;
        for (int64_t i = 0; i < n;) {
            const int64_t run = blocks - block < n - i ? blocks - block : n - i;
            const int64_t end = 4 * (block + run) < units ? 4 * (block + run) : units;
            put(row * units + 4 * block, t.values + 4 * i, end - 4 * block);
            i += run;
            block = 0;
            ++row;
        }
    }
}

struct Copy {
    float* out;

    void operator()(int64_t at, const float* values, int64_t n) const {
        __builtin_memcpy(out + at, values, static_cast<uint64_t>(n) * sizeof(float));
    }
};

struct Compare {
    float* out;
    const float* p;

    void operator()(int64_t at, const float* values, int64_t n) const {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) out[at + i] = values[i] < p[at + i] ? 1.0f : 0.0f;
    }
};

void uniform(float* out, int64_t rows, int64_t units, const int64_t* index, const RandomKey& k) {
    fill<Uniform>(rows, units, index, k, Copy{out});
}

void normal(float* out, int64_t rows, int64_t units, const int64_t* index, const RandomKey& k) {
    fill<Normal>(rows, units, index, k, Copy{out});
}

void bernoulli(float* out, const float* p, int64_t rows, int64_t units, const int64_t* index, const RandomKey& k) {
    fill<Uniform>(rows, units, index, k, Compare{out, p});
}

}  // namespace

template <>
const RandomTable& table<PYDDL_LEVEL, RandomTable>() {
    static constexpr RandomTable t{philox4x32, uniform, normal, bernoulli};
    return t;
}

}  // namespace pyddl::kernels
