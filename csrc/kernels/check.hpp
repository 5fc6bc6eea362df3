/// Shape checks of kernels, made once at the edge; each names the argument, what was expected and what came.
#pragma once
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/matrix_view.hpp"

namespace pyddl::kernels {

/// @throws std::invalid_argument unless `m` is (rows, columns)
template <class T>
void check_shape(const char* name, MatrixView<T> m, std::int64_t rows, std::int64_t columns) {
    if (m.rows != rows || m.columns != columns)
        throw std::invalid_argument(std::string(name) + " has shape (" + std::to_string(m.rows) + ", " +
                                    std::to_string(m.columns) + "); expected (" + std::to_string(rows) + ", " +
                                    std::to_string(columns) + ")");
}

/// @throws std::invalid_argument unless `v` has `size` elements
template <class T>
void check_size(const char* name, std::span<T> v, std::int64_t size) {
    if (static_cast<std::int64_t>(v.size()) != size)
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(v.size()) + " elements; expected " +
                                    std::to_string(size));
}

/// @throws std::invalid_argument unless there is a label for each row, from 0 to outputs - 1
inline void check_labels(std::span<const std::int64_t> labels, std::int64_t rows, std::int64_t outputs) {
    if (static_cast<std::int64_t>(labels.size()) != rows)
        throw std::invalid_argument("targets has " + std::to_string(labels.size()) + " labels; expected " +
                                    std::to_string(rows) + ", one for each row");
    for (std::int64_t b = 0; b < rows; ++b)
        if (labels[b] < 0 || labels[b] >= outputs)
            throw std::invalid_argument("row " + std::to_string(b) + " has label " + std::to_string(labels[b]) +
                                        "; expected 0 to " + std::to_string(outputs - 1));
}

}  // namespace pyddl::kernels
