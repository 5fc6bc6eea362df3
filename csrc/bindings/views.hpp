/// NumPy arrays as views: checked once here, at the edge. `noconvert` at each argument turns a silent copy into a
/// TypeError.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/element.hpp"
#include "kernels/matrix_view.hpp"

namespace pyddl::bindings {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

[[noreturn]] inline void wrong_dimensions(const char* name, int expected, py::ssize_t got) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(got) + " dimensions; expected " +
                                std::to_string(expected));
}

template <class T>
kernels::MatrixView<const T> matrix(const Array<T>& a, const char* name) {
    if (a.ndim() != 2) wrong_dimensions(name, 2, a.ndim());
    return {a.data(), a.shape(0), a.shape(1)};
}

/// @throws std::domain_error (ValueError) when the array is read-only
template <class T>
kernels::MatrixView<T> out_matrix(Array<T>& a, const char* name) {
    if (a.ndim() != 2) wrong_dimensions(name, 2, a.ndim());
    return {a.mutable_data(), a.shape(0), a.shape(1)};
}

template <class T>
std::span<const T> vector(const Array<T>& a, const char* name) {
    if (a.ndim() != 1) wrong_dimensions(name, 1, a.ndim());
    return {a.data(), static_cast<std::size_t>(a.size())};
}

template <class T>
std::span<T> out_vector(Array<T>& a, const char* name) {
    if (a.ndim() != 1) wrong_dimensions(name, 1, a.ndim());
    return {a.mutable_data(), static_cast<std::size_t>(a.size())};
}

/// Bits of numbers in bfloat16, for which NumPy has no type.
inline std::span<const kernels::Bfloat16> bfloat16_vector(const Array<std::uint16_t>& a, const char* name) {
    const auto bits = vector(a, name);
    return {reinterpret_cast<const kernels::Bfloat16*>(bits.data()), bits.size()};
}

}  // namespace pyddl::bindings
