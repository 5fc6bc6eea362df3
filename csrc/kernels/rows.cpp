#include "kernels/rows.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/mix.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

void check(std::int64_t rows, std::span<const std::int64_t> index, MatrixView<float> out) {
    if (out.rows != static_cast<std::int64_t>(index.size()))
        throw std::invalid_argument("out has " + std::to_string(out.rows) + " rows; expected one for each of the " +
                                    std::to_string(index.size()) + " indices");
    for (std::size_t i = 0; i < index.size(); ++i)
        if (index[i] < 0 || index[i] >= rows)
            throw std::out_of_range("index[" + std::to_string(i) + "] is " + std::to_string(index[i]) +
                                    "; the source has rows 0 to " + std::to_string(rows - 1));
}

bool convert(const std::uint8_t* from, std::int64_t stride, float* to, std::int64_t n, float scale) {
    return best<RowsTable>().convert_u8(from, stride, to, n, scale);
}
bool convert(const float* from, std::int64_t stride, float* to, std::int64_t n, float scale) {
    return best<RowsTable>().convert_f32(from, stride, to, n, scale);
}
bool convert(const double* from, std::int64_t stride, float* to, std::int64_t n, float scale) {
    return best<RowsTable>().convert_f64(from, stride, to, n, scale);
}

}  // namespace

template <class T>
std::int64_t gather_rows(StridedRows<T> source, std::span<const std::int64_t> index, float scale,
                         MatrixView<float> out) {
    check(source.rows, index, out);
    if (out.columns != source.columns)
        throw std::invalid_argument("out has " + std::to_string(out.columns) + " columns; expected " +
                                    std::to_string(source.columns) + " as in the source");
    const auto n = static_cast<std::int64_t>(index.size());

    const bool runs_are_contiguous = source.column_stride == 1 && source.row_stride == source.columns;
    bool finite = true;
    for (std::int64_t i = 0; i < n;) {
        std::int64_t end = i + 1;
        if (runs_are_contiguous)
            while (end < n && index[end] == index[end - 1] + 1) ++end;
        finite &= !convert(source.data + index[i] * source.row_stride, source.column_stride, out.row(i),
                           (end - i) * out.columns, scale);
        i = end;
    }
    if (finite) return -1;
    std::int64_t position = 0;
    while (std::isfinite(out.data[position])) ++position;
    return position;
}

template std::int64_t gather_rows(StridedRows<std::uint8_t>, std::span<const std::int64_t>, float, MatrixView<float>);
template std::int64_t gather_rows(StridedRows<float>, std::span<const std::int64_t>, float, MatrixView<float>);
template std::int64_t gather_rows(StridedRows<double>, std::span<const std::int64_t>, float, MatrixView<float>);

void random_rows(std::int64_t rows, std::span<const std::int64_t> index, MatrixView<float> out) {
    check(rows, index, out);
    for (std::int64_t i = 0; i < out.rows; ++i)
        best<RowsTable>().uniform(mix64(static_cast<std::uint64_t>(index[i])), out.row(i), out.columns);
}

}  // namespace pyddl::kernels
