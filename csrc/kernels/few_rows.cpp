// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/few_rows.hpp"

#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

constexpr int lanes = PYDDL_LEVEL == 4 ? 16 : PYDDL_LEVEL == 3 ? 8 : 4;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

typedef float Quad __attribute__((vector_size(16)));
typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));

// A tile of dot products keeps one register for each while it walks along the inputs.
constexpr int tile_outputs = 4;
constexpr int tile_rows = PYDDL_LEVEL == 4 ? 4 : 2;

/// The sum of neighbouring quarters: lanes 0, 4, 8, ... in the first place, and so on.
[[gnu::always_inline]] inline Quad quarters(Vector v) {
#if PYDDL_LEVEL == 4
    const auto half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif PYDDL_LEVEL == 3
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    return v;
#endif
}

/// The sums of four vectors.
[[gnu::always_inline]] inline Quad sums_of(const Vector (&v)[4]) {
    const Quad a = quarters(v[0]), b = quarters(v[1]), c = quarters(v[2]), d = quarters(v[3]);
    const Quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Quad cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

/// R rows times four outputs at once.
template <int R>
[[gnu::always_inline]] inline void tile(const float* rows, const float* weights, const float* bias, float* out,
                                        std::int64_t I, std::int64_t O) {
    Vector sums[R][tile_outputs] = {};
    std::int64_t i = 0;
    for (; i + lanes <= I; i += lanes) {
        Vector w[tile_outputs];
        for (int c = 0; c < tile_outputs; ++c) w[c] = *reinterpret_cast<const Unaligned*>(weights + c * I + i);
        for (int r = 0; r < R; ++r) {
            const Vector x = *reinterpret_cast<const Unaligned*>(rows + r * I + i);
            for (int c = 0; c < tile_outputs; ++c) sums[r][c] += x * w[c];
        }
    }
    for (int r = 0; r < R; ++r) {
        Quad s = sums_of(sums[r]);
        for (std::int64_t k = i; k < I; ++k)
            s += rows[r * I + k] * Quad{weights[k], weights[I + k], weights[2 * I + k], weights[3 * I + k]};
        if (bias) s += *reinterpret_cast<const UnalignedQuad*>(bias);
        *reinterpret_cast<UnalignedQuad*>(out + r * O) = s;
    }
}

/// Four outputs of all rows.
void four_outputs(const float* rows, const float* weights, const float* bias, float* out, std::int64_t B,
                  std::int64_t I, std::int64_t O) {
    for (; B >= tile_rows; B -= tile_rows, rows += tile_rows * I, out += tile_rows * O)
        tile<tile_rows>(rows, weights, bias, out, I, O);
    if constexpr (tile_rows > 2) {
        if (B == 3) return tile<3>(rows, weights, bias, out, I, O);
        if (B == 2) return tile<2>(rows, weights, bias, out, I, O);
    }
    if (B == 1) tile<1>(rows, weights, bias, out, I, O);
}

/// The last outputs, where fewer than four are left.
void one_output(const float* rows, const float* weights, float bias, float* out, std::int64_t B, std::int64_t I,
                std::int64_t O) {
    for (std::int64_t b = 0; b < B; ++b) {
        float s = 0;
#pragma omp simd reduction(+ : s)
        for (std::int64_t i = 0; i < I; ++i) s += rows[b * I + i] * weights[i];
        out[b * O] = s + bias;
    }
}

void forward(const float* rows, const float* weights, const float* bias, float* out, std::int64_t B, std::int64_t I,
             std::int64_t O) {
    const std::int64_t tiles = O / tile_outputs;
#pragma omp parallel for schedule(static) if (2.0 * B * I * O >= parallel_flops)
    for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t o = t * tile_outputs;
        four_outputs(rows, weights + o * I, bias ? bias + o : nullptr, out + o, B, I, O);
    }
    for (std::int64_t o = tiles * tile_outputs; o < O; ++o)
        one_output(rows, weights + o * I, bias ? bias[o] : 0.0f, out + o, B, I, O);
}

}  // namespace

template <>
const FewRowsTable& table<PYDDL_LEVEL, FewRowsTable>() {
    static constexpr FewRowsTable t{forward};
    return t;
}

}  // namespace pyddl::kernels
