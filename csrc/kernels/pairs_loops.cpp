// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/load_store.hpp"
#include "kernels/pairs.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

using std::int64_t;

constexpr int64_t rows = PairsTable::large_each, columns = PairsTable::small_each;

void pack(const Bfloat16* all, Bfloat16* to, int64_t B, int64_t P, int64_t C, int64_t first, int64_t pairs,
          int64_t channels) {
    for (int64_t b = first; b < first + 2 * pairs; b += 2)
        for (int64_t p = 0; p < P; ++p, to += 2 * channels) {
            const Bfloat16* one = all + (b * P + p) * C;
            const Bfloat16* other = one + P * C;
            const bool there = b + 1 < B;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                to[2 * c] = one[c];
                to[2 * c + 1] = there ? other[c] : Bfloat16{};
            }
        }
}

/// The outputs along an axis that see a place of a picture of `size` at their tap `a`.
struct Range {
    int64_t begin, end;
    Range(int64_t a, int64_t size, int64_t outputs, const ConvolutionShape& x)
        : begin(a >= x.padding ? 0 : (x.padding - a + x.stride - 1) / x.stride),
          end(size + x.padding <= a ? 0 : (size - 1 + x.padding - a) / x.stride + 1) {
        if (end > outputs) end = outputs;
    }
};

/// sums (rows, K) := or += the products of all places that output and tap share; large (pairs, H, W, rows, 2), small
/// (pairs, h, w, columns, 2).
#if PYDDL_LEVEL == 4
[[gnu::target("avx512bf16")]]
void tap(const Bfloat16* large, const Bfloat16* small, float* sums, const ConvolutionShape& x, int64_t a, int64_t b,
         int64_t pairs, bool add) {
    const int64_t K = x.small.channels, step = x.stride * 2 * rows;
    const Range down(a, x.large.height, x.small.height, x), across(b, x.large.width, x.small.width, x);
    __m512 sum[rows][2];
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t q = 0; q < 2; ++q) sum[r][q] = add ? _mm512_loadu_ps(sums + r * K + 16 * q) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; ++p)
        for (int64_t i = down.begin; i < down.end; ++i) {
            const int64_t y = p * x.large.height + i * x.stride + a - x.padding;
            const Bfloat16* of_large = large + (y * x.large.width + across.begin * x.stride + b - x.padding) * 2 * rows;
            const Bfloat16* of_small = small + ((p * x.small.height + i) * x.small.width + across.begin) * 2 * columns;
            for (int64_t j = across.begin; j < across.end; ++j, of_large += step, of_small += 2 * columns) {
                const auto first = (__m512bh)_mm512_loadu_si512(of_small);
                const auto second = (__m512bh)_mm512_loadu_si512(of_small + columns);
#pragma GCC unroll 8
                for (int64_t r = 0; r < rows; ++r) {
                    std::int32_t pair;
                    __builtin_memcpy(&pair, of_large + 2 * r, sizeof pair);
                    const auto each = (__m512bh)_mm512_set1_epi32(pair);
                    sum[r][0] = _mm512_dpbf16_ps(sum[r][0], each, first);
                    sum[r][1] = _mm512_dpbf16_ps(sum[r][1], each, second);
                }
            }
        }
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t q = 0; q < 2; ++q) _mm512_storeu_ps(sums + r * K + 16 * q, sum[r][q]);
}
#else
void tap(const Bfloat16* large, const Bfloat16* small, float* sums, const ConvolutionShape& x, int64_t a, int64_t b,
         int64_t pairs, bool add) {
    const int64_t K = x.small.channels;
    const Range down(a, x.large.height, x.small.height, x), across(b, x.large.width, x.small.width, x);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < columns; ++k) {
            float sum = add ? sums[r * K + k] : 0.0f;
            for (int64_t p = 0; p < pairs; ++p)
                for (int64_t i = down.begin; i < down.end; ++i)
                    for (int64_t j = across.begin; j < across.end; ++j) {
                        const int64_t y = i * x.stride + a - x.padding, u = j * x.stride + b - x.padding;
                        const Bfloat16* one = large + (((p * x.large.height + y) * x.large.width + u) * rows + r) * 2;
                        const Bfloat16* other =
                            small + (((p * x.small.height + i) * x.small.width + j) * columns + k) * 2;
                        sum += load(one) * load(other) + load(one + 1) * load(other + 1);
                    }
            sums[r * K + k] = sum;
        }
}
#endif

void gradient(const Bfloat16* large, const Bfloat16* small, float* gradients, const ConvolutionShape& x, int64_t pairs,
              bool add) {
    for (int64_t a = 0; a < x.kernel; ++a)
        for (int64_t b = 0; b < x.kernel; ++b)
            tap(large, small, gradients + (a * x.kernel + b) * x.large.channels * x.small.channels, x, a, b, pairs,
                add);
}

}  // namespace

template <>
const PairsTable& table<PYDDL_LEVEL, PairsTable>() {
    static constexpr PairsTable t{pack, gradient};
    return t;
}

}  // namespace pyddl::kernels
