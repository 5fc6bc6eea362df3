/// Products with matrices of floats that are mostly zeros, as images and what is sampled from them are: lists of what
/// is not zero, and sums of the rows that they name. Each such row is read once for each element, so this beats a dense
/// product by about the share of zeros.
/// Letters: R rows, N columns of the sparse matrix; H columns of the dense one. All row-major and contiguous.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// Elements that are not zero, line by line: those of line r are first[r] .. first[r + 1] - 1.
struct Lists {
    std::int64_t lines;
    const std::int64_t* first;
    const std::int32_t* place;
    const float* value;
};

/// Columns that the dense matrix of a sparse product has at the least: those of the widest vector.
inline constexpr std::int64_t least_columns = 16;

struct SparseTable {
    /// How many of the elements are not zero.
    std::int64_t (*count)(const float* m, std::int64_t size);

    /// Lists of the rows of m (R, N), behind first[0] elements that are there: first (R + 1); place, value: room for
    /// all elements and one more.
    void (*lists_of_rows)(const float* m, std::int64_t R, std::int64_t N, std::int64_t* first, std::int32_t* place,
                          float* value);

    /// Lists of the columns of the matrix whose rows are `rows`: first (N + 1), place and value as long as theirs.
    void (*lists_of_columns)(const Lists& rows, std::int64_t N, std::int64_t* first, std::int32_t* place, float* value);

    /// out (lines, H) := bias (H), or 0 where it is null, + the sum over a line's elements of value * dense row
    /// `place`. H is at least least_columns. A line's sums do not depend on the others, nor on threads.
    void (*product)(const Lists& lists, const float* dense, const float* bias, float* out, std::int64_t H);
};

}  // namespace pyddl::kernels
