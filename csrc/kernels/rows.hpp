/// Rows of a data set as float32: gathered from memory in any of three element types, or made from their
/// numbers. Letters: N rows of the set, F features, n rows asked for.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/matrix_view.hpp"

namespace pyddl::kernels {

/// A matrix whose rows and columns lie any number of elements apart. Owns nothing.
template <class T>
struct StridedRows {
    const T* data = nullptr;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t row_stride = 0;     // elements; may be negative
    std::int64_t column_stride = 1;  // elements; 1 is the fast case
};

/// out[i] = float(source[index[i]]) * scale. T: uint8, float, double.
/// @param source (N, F)   @param index (n), each in [0, N)   @param out (n, F), not overlapping source
/// @returns position in out of the first value that is NaN or infinite, or -1
/// @throws std::invalid_argument when shapes disagree; std::out_of_range for an index outside, before out is
/// touched Cost: one pass over n F elements of each; runs of consecutive indices are converted in one go.
/// Threads: the caller's. Allocates nothing.
template <class T>
std::int64_t gather_rows(StridedRows<T> source, std::span<const std::int64_t> index, float scale,
                         MatrixView<float> out);

/// out[i] = F numbers of [0, 1), multiples of 2^-24, that depend on index[i] and their column only.
/// A counter-based hash: column and row key through two multiply-xorshift rounds, 32 bits wide. Good enough
/// for data that cost nothing to store; not the generator of training.
/// @param index (n), each in [0, rows)   @param out (n, F)
/// @throws as gather_rows
void random_rows(std::int64_t rows, std::span<const std::int64_t> index, MatrixView<float> out);

/// The loops behind both, one set per x86-64 level; called with checked arguments.
struct RowsTable {
    /// to[i] = float(from[i * stride]) * scale for i < n; returns whether some value is NaN or infinite.
    bool (*convert_u8)(const std::uint8_t* from, std::int64_t stride, float* to, std::int64_t n, float scale);
    bool (*convert_f32)(const float* from, std::int64_t stride, float* to, std::int64_t n, float scale);
    bool (*convert_f64)(const double* from, std::int64_t stride, float* to, std::int64_t n, float scale);
    /// to[j] = uniform number of (key, j) for j < n
    void (*uniform)(std::uint64_t key, float* to, std::int64_t n);
};

}  // namespace pyddl::kernels
