// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/sparse.hpp"

#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using std::int32_t;
using std::int64_t;

constexpr int lanes = PYDDL_LEVEL == 4 ? 16 : PYDDL_LEVEL == 3 ? 8 : 4;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

int64_t count(const float* m, int64_t size) {
    int64_t found = 0;
#pragma omp simd reduction(+ : found)
    for (int64_t i = 0; i < size; ++i) found += m[i] != 0.0f;
    return found;
}

void lists_of_rows(const float* m, int64_t R, int64_t N, int64_t* first, int32_t* place, float* value) {
    int64_t count = first[0];
    for (int64_t r = 0; r < R; ++r) {
        first[r] = count;
        const float* const row = m + r * N;
        for (int64_t n = 0; n < N; ++n) {  // without branches: what is zero is overwritten
            place[count] = static_cast<int32_t>(n);
            value[count] = row[n];
            count += row[n] != 0.0f;
        }
    }
    first[R] = count;
}

void lists_of_columns(const Lists& rows, int64_t N, int64_t* first, int32_t* place, float* value) {
    for (int64_t n = 0; n <= N; ++n) first[n] = 0;
    const int64_t count = rows.first[rows.lines];
    for (int64_t k = 0; k < count; ++k) ++first[rows.place[k] + 1];
    for (int64_t n = 0; n < N; ++n) first[n + 1] += first[n];
    for (int64_t r = 0; r < rows.lines; ++r) {
        for (int64_t k = rows.first[r]; k < rows.first[r + 1]; ++k) {
            const int64_t at = first[rows.place[k]]++;
            place[at] = static_cast<int32_t>(r);
            value[at] = rows.value[k];
        }
    }
    for (int64_t n = N; n > 0; --n) first[n] = first[n - 1];  // each has moved to where the next one begins
    first[0] = 0;
}

/// `Vectors` vectors of one line.
template <int Vectors>
[[gnu::always_inline]] inline void tile(const Lists& l, int64_t line, const float* dense, const float* bias, float* out,
                                        int64_t H) {
    Vector sums[Vectors];
    for (int v = 0; v < Vectors; ++v)
        sums[v] = bias ? static_cast<Vector>(*reinterpret_cast<const Unaligned*>(bias + v * lanes)) : Vector{};
    for (int64_t k = l.first[line]; k < l.first[line + 1]; ++k) {
        const float* const row = dense + l.place[k] * H;
        const float value = l.value[k];
        for (int v = 0; v < Vectors; ++v) sums[v] += value * *reinterpret_cast<const Unaligned*>(row + v * lanes);
    }
    for (int v = 0; v < Vectors; ++v) *reinterpret_cast<Unaligned*>(out + v * lanes) = sums[v];
}

/// Some lines, tile by tile of columns, so that the part of `dense` that a tile reads stays in a cache from line to
/// line. The last tile ends with the columns: some sums are made twice.
template <int Vectors>
void columns(const Lists& l, int64_t from, int64_t to, const float* dense, const float* bias, float* out, int64_t H) {
    constexpr int64_t width = Vectors * lanes;
    for (int64_t begin = 0; begin < H; begin += width) {
        const int64_t at = begin + width <= H ? begin : H - width;
        for (int64_t line = from; line < to; ++line)
            tile<Vectors>(l, line, dense + at, bias ? bias + at : nullptr, out + line * H + at, H);
    }
}

void product(const Lists& l, const float* dense, const float* bias, float* out, int64_t H) {
    const int64_t work = l.first[l.lines] * H;
    const int64_t parts = work >= parallel_elements && threads() > 1 ? threads() : 1;
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t from = l.lines * part / parts, to = l.lines * (part + 1) / parts;
        if (H >= 8 * lanes)
            columns<8>(l, from, to, dense, bias, out, H);
        else if (H >= 4 * lanes)
            columns<4>(l, from, to, dense, bias, out, H);
        else if (H >= 2 * lanes)
            columns<2>(l, from, to, dense, bias, out, H);
        else
            columns<1>(l, from, to, dense, bias, out, H);
    }
}

}  // namespace

template <>
const SparseTable& table<PYDDL_LEVEL, SparseTable>() {
    static constexpr SparseTable t{count, lists_of_rows, lists_of_columns, product};
    return t;
}

}  // namespace pyddl::kernels
