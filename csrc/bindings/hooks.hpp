/// A batch's hooks as callbacks of the kernels: each takes the GIL, and the address of the Python object to call.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

namespace pyddl::bindings {

inline void announce(void* ready, std::int64_t begin, std::int64_t end) {
    const pybind11::gil_scoped_acquire gil;
    (*static_cast<pybind11::object*>(ready))(begin, end);
}

inline void add_over_workers(void* sum, float* values, std::int64_t size) {
    const pybind11::gil_scoped_acquire gil;
    (*static_cast<pybind11::object*>(sum))(
        pybind11::array(pybind11::dtype::of<float>(), {size}, values, pybind11::none()));
}

}  // namespace pyddl::bindings
