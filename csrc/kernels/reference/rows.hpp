/// Plain versions of rows.hpp: the oracles of its tests.
#pragma once
#include "kernels/rows.hpp"

namespace pyddl::kernels::reference {

template <class T>
void gather_rows(StridedRows<T> source, std::span<const std::int64_t> index, float scale, MatrixView<float> out) {
    for (std::int64_t i = 0; i < out.rows; ++i)
        for (std::int64_t j = 0; j < out.columns; ++j)
            out.row(i)[j] =
                static_cast<float>(source.data[index[i] * source.row_stride + j * source.column_stride]) * scale;
}

}  // namespace pyddl::kernels::reference
