/// Loops over the rows of a matrix, and sums over its columns or along a row, for levelled sources only (simd.hpp):
/// everything has internal linkage. Sums do not depend on the number of threads.
#pragma once
#include <cstdint>

#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

/// sums[n] := the sum over rows of value(b * columns + n), column by column of a stripe, in blocks of rows.
template <class Value>
void sum_columns(std::int64_t rows, std::int64_t columns, float* sums, Value value) {
    const Stripes stripes(columns);
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (std::int64_t s = 0; s < stripes.count; ++s) {
        const std::int64_t first = stripes.first(s), width = stripes.width(s);
        float total[Stripes::columns_each] = {};
        for (std::int64_t block = 0; block < rows; block += Stripes::rows_each) {
            const std::int64_t end = block + Stripes::rows_each < rows ? block + Stripes::rows_each : rows;
            float sum[Stripes::columns_each] = {};
            for (std::int64_t b = block; b < end; ++b) {
                const std::int64_t at = b * columns + first;
                for_columns(width, [&](std::int64_t n) { sum[n] += value(at + n, first + n); });
            }
#pragma omp simd
            for (std::int64_t n = 0; n < width; ++n) total[n] += sum[n];
        }
        for (std::int64_t n = 0; n < width; ++n) sums[first + n] = total[n];
    }
}

/// row(b) for each row, on all threads where there is much of them.
template <class Row>
void for_rows(std::int64_t rows, std::int64_t columns, Row row) {
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (std::int64_t b = 0; b < rows; ++b) row(b);
}

constexpr std::int64_t block_of_row = 256;  // floats that are summed before they go into a double

/// The sum over n of value(n): floats within blocks, doubles between them.
template <class Value>
[[gnu::always_inline]] inline double sum_row(std::int64_t n, Value value) {
    double total = 0;
    for (std::int64_t begin = 0; begin < n; begin += block_of_row) {
        const std::int64_t end = begin + block_of_row < n ? begin + block_of_row : n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = begin; i < end; ++i) sum += value(i);
        total += static_cast<double>(sum);
    }
    return total;
}

}  // namespace
}  // namespace pyddl::kernels
