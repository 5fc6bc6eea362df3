#include "kernels/random.hpp"

#include "kernels/simd.hpp"
#include "kernels/simd_math.hpp"
#include "kernels/threads.hpp"
#if PYDDL_LEVEL > 0
#include <immintrin.h>
#endif

namespace pyddl::kernels {
namespace {

using std::int32_t;
using std::int64_t;
using std::uint32_t;
using std::uint64_t;

// Words of counters are kept in lanes of 64 bits, since processors multiply 32 by 32 to 64 bits there. Bits
// above a word are left as they come: the product ignores them.
#if PYDDL_LEVEL == 4
typedef uint64_t Lanes [[gnu::vector_size(64)]];
inline Lanes multiply(Lanes a, uint32_t b) {
    return reinterpret_cast<Lanes>(_mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
}
#elif PYDDL_LEVEL == 3
typedef uint64_t Lanes [[gnu::vector_size(32)]];
inline Lanes multiply(Lanes a, uint32_t b) {
    return reinterpret_cast<Lanes>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
}
#elif PYDDL_LEVEL == 2
typedef uint64_t Lanes [[gnu::vector_size(16)]];
inline Lanes multiply(Lanes a, uint32_t b) {
    return reinterpret_cast<Lanes>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(b)));
}
#else
typedef uint64_t Lanes [[gnu::vector_size(16)]];
inline Lanes multiply(Lanes a, uint32_t b) { return (a & 0xffffffff) * b; }
#endif

constexpr int width = sizeof(Lanes) / sizeof(uint64_t);
constexpr int tile = 64;  // blocks of four words computed together; all of a tile stays in the first cache

/// Counters of a tile, word by word, and what Philox makes of them: 4 * tile words, those of a block
/// together.
struct Tile {
    Lanes block[tile / width], row[tile / width], top[tile / width];
    Lanes pairs[2 * tile / width];
    alignas(64) float values[4 * tile];
};

/// Ten rounds on `width` counters c and keys of either one value or one for each lane. The results lie at
/// pairs[0] and pairs[1] in the order of memory: the words of the first counter, of the second, ...
template <class Key>
inline void philox(Lanes c0, Lanes c1, Lanes c2, Lanes c3, Key key0, Key key1, Lanes* pairs) {
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const Lanes a = multiply(c0, 0xD2511F53), b = multiply(c2, 0xCD9E8D57);
        c0 = (b >> 32) ^ c1 ^ key0;
        c1 = b;
        c2 = (a >> 32) ^ c3 ^ key1;
        c3 = a;
        key0 += 0x9E3779B9;  // the golden ratio
        key1 += 0xBB67AE85;  // sqrt(3) - 1
    }
    constexpr uint64_t low = 0xffffffff;
    const Lanes first = (c0 & low) | c1 << 32, second = (c2 & low) | c3 << 32;
    uint64_t* const out = reinterpret_cast<uint64_t*>(pairs);
    for (int i = 0; i < width; ++i) {
        out[2 * i] = first[i];
        out[2 * i + 1] = second[i];
    }
}

void philox4x32(const uint32_t* counter, const uint32_t* key, uint32_t* out, int64_t n) {
    for (int64_t begin = 0; begin < n; begin += width) {
        const int64_t count = n - begin < width ? n - begin : width;
        Lanes c[4] = {}, k[2] = {}, pairs[2];
        for (int64_t i = 0; i < count; ++i) {
            for (int j = 0; j < 4; ++j) c[j][i] = counter[4 * (begin + i) + j];
            for (int j = 0; j < 2; ++j) k[j][i] = key[2 * (begin + i) + j];
        }
        philox(c[0], c[1], c[2], c[3], k[0], k[1], pairs);
        __builtin_memcpy(out + 4 * begin, pairs, static_cast<uint64_t>(count) * 4 * sizeof(uint32_t));
    }
}

struct Uniform {
    static void convert(const uint32_t* words, float* values) {
#pragma omp simd
        for (int i = 0; i < 4 * tile; ++i)
            values[i] = static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f;
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

    /// cos and sin of 2 pi word / 2^32: the nearest quarter turn exactly in integers, Taylor's series for the
    /// rest.
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

    static void convert(const uint32_t* words, float* values) {
#pragma omp simd
        for (int i = 0; i < 2 * tile; ++i) {
            float cosine, sine;
            direction(words[2 * i + 1], cosine, sine);
            const float r = radius(words[2 * i]);
            values[2 * i] = r * cosine;
            values[2 * i + 1] = r * sine;
        }
    }
};

/// Calls span(row, block, i, n) for each row's part of the n_blocks blocks from `begin` on: n of them from
/// `block` on, after i others. Rows have `blocks` blocks.
template <class Span>
inline void for_each_row(int64_t begin, int64_t n_blocks, int64_t blocks, Span span) {
    int64_t row = begin / blocks, block = begin % blocks;
    for (int64_t i = 0; i < n_blocks;) {
        const int64_t n = blocks - block < n_blocks - i ? blocks - block : n_blocks - i;
        span(row, block, i, n);
        i += n;
        block = 0;
        ++row;
    }
}

/// One matrix of numbers, cut into tiles along its rows: `put(at, values, n)` receives the n values of
/// elements at, at + 1, ...
template <class Distribution, class Put>
class Matrix {
  public:
    Matrix(int64_t rows, int64_t units, const int64_t* index, const RandomKey& k, Put put)
        : units_(units),
          blocks_((units + 3) / 4),
          all_(rows * blocks_),
          index_(index),
          key0_(static_cast<uint32_t>(k.seed)),
          key1_(k.seed >> 32 | k.purpose << 16),
          step_(static_cast<uint32_t>(k.step)),
          top_(k.step >> 32 << 8 | k.substep << 16),
          put_(put) {}

    void fill() const {
        const int64_t tiles = (all_ + tile - 1) / tile;
        if (all_ * 4 < parallel_elements) {
            for (int64_t t = 0; t < tiles; ++t) fill_tile(t * tile);
            return;
        }
#pragma omp parallel for schedule(static) num_threads(threads())
        for (int64_t t = 0; t < tiles; ++t) fill_tile(t * tile);
    }

  private:
    void fill_tile(int64_t begin) const {
        const int64_t n = all_ - begin < tile ? all_ - begin : tile;
        Tile t;
        uint64_t* const block_of = reinterpret_cast<uint64_t*>(t.block);
        uint64_t* const row_of = reinterpret_cast<uint64_t*>(t.row);
        uint64_t* const top_of = reinterpret_cast<uint64_t*>(t.top);
        for_each_row(begin, n, blocks_, [=, this](int64_t row, int64_t block, int64_t i, int64_t count) {
            const uint64_t index = static_cast<uint64_t>(index_[row]), top = index >> 32 | top_;
            for (int64_t j = 0; j < count; ++j) {
                block_of[i + j] = static_cast<uint64_t>(block + j);
                row_of[i + j] = index;
                top_of[i + j] = top;
            }
        });
        for (int64_t i = n; i < tile; ++i) block_of[i] = row_of[i] = top_of[i] = 0;
        const Lanes step = Lanes{} + step_;
        for (int i = 0; i < tile / width; ++i)
            philox(t.block[i], t.row[i], step, t.top[i], key0_, key1_, t.pairs + 2 * i);
        uint32_t words[4 * tile];
        __builtin_memcpy(words, t.pairs, sizeof words);
        Distribution::convert(words, t.values);
        if (units_ % 4 == 0) {  // neighbouring rows are neighbours in the tile too
            put_(begin * 4, t.values, n * 4);
            return;
        }
        for_each_row(begin, n, blocks_, [&](int64_t row, int64_t block, int64_t i, int64_t count) {
            const int64_t end = 4 * (block + count) < units_ ? 4 * (block + count) : units_;
            put_(row * units_ + 4 * block, t.values + 4 * i, end - 4 * block);
        });
    }

    int64_t units_, blocks_, all_;
    const int64_t* index_;
    uint64_t key0_, key1_, step_, top_;
    Put put_;
};

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

struct CompareLogits {
    float* out;
    float* mean;
    const float* x;

    void operator()(int64_t at, const float* values, int64_t n) const {
        if (!mean) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) out[at + i] = values[i] < sigmoid(x[at + i]) ? 1.0f : 0.0f;
            return;
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const float p = sigmoid(x[at + i]);
            mean[at + i] = p;
            out[at + i] = values[i] < p ? 1.0f : 0.0f;
        }
    }
};

void uniform(float* out, int64_t rows, int64_t units, const int64_t* index, const RandomKey& k) {
    Matrix<Uniform, Copy>(rows, units, index, k, Copy{out}).fill();
}

void normal(float* out, int64_t rows, int64_t units, const int64_t* index, const RandomKey& k) {
    Matrix<Normal, Copy>(rows, units, index, k, Copy{out}).fill();
}

void bernoulli(float* out, const float* p, int64_t rows, int64_t units, const int64_t* index, const RandomKey& k) {
    Matrix<Uniform, Compare>(rows, units, index, k, Compare{out, p}).fill();
}

void bernoulli_of_logits(float* out, float* mean, const float* x, int64_t rows, int64_t units, const int64_t* index,
                         const RandomKey& k) {
    Matrix<Uniform, CompareLogits>(rows, units, index, k, CompareLogits{out, mean, x}).fill();
}

}  // namespace

template <>
const RandomTable& table<PYDDL_LEVEL, RandomTable>() {
    static constexpr RandomTable t{philox4x32, uniform, normal, bernoulli, bernoulli_of_logits};
    return t;
}

}  // namespace pyddl::kernels
