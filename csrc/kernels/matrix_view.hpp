/// Views of memory that somebody else owns. All kernels take and fill views; none allocates what it returns.
#pragma once
#include <cstdint>
#include <span>
#include <type_traits>

namespace pyddl::kernels {

/// A row-major, contiguous matrix: pointer, rows, columns. Owns nothing.
template <class T>
struct MatrixView {
    T* data = nullptr;
    std::int64_t rows = 0;
    std::int64_t columns = 0;

    std::int64_t size() const { return rows * columns; }
    T* row(std::int64_t i) const { return data + i * columns; }
    operator MatrixView<const T>() const
        requires(!std::is_const_v<T>)
    {
        return {data, rows, columns};
    }
};

}  // namespace pyddl::kernels
