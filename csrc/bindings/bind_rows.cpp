/// Rows of data and their order: views in, GIL out, one call.
#include <pybind11/pybind11.h>

#include "bindings/views.hpp"
#include "kernels/order.hpp"
#include "kernels/reference/order.hpp"
#include "kernels/reference/rows.hpp"
#include "kernels/rows.hpp"

namespace pyddl::bindings {
namespace {

using namespace py::literals;

/// Any layout that steps by whole elements; other arrays (fields of records) are refused.
template <class T>
kernels::StridedRows<T> strided_rows(const py::array_t<T, 0>& a, const char* name) {
    if (a.ndim() != 2) wrong_dimensions(name, 2, a.ndim());
    constexpr auto size = static_cast<py::ssize_t>(sizeof(T));
    if (a.strides(0) % size != 0 || a.strides(1) % size != 0)
        throw std::invalid_argument(std::string(name) +
                                    " has strides that are no multiple of its element size; copy it");
    return {a.data(), a.shape(0), a.shape(1), a.strides(0) / size, a.strides(1) / size};
}

template <class T>
void define_gather(py::module_& m) {
    m.def(
        "gather_rows",
        [](const py::array_t<T, 0>& source, const Array<std::int64_t>& index, Array<float>& out, float scale) {
            auto from = strided_rows(source, "source");
            auto rows = vector(index, "index");
            auto to = out_matrix(out, "out");
            py::gil_scoped_release no_gil;
            return kernels::gather_rows(from, rows, scale, to);
        },
        "source"_a.noconvert(), "index"_a.noconvert(), "out"_a.noconvert(), "scale"_a = 1.0f);
    m.def(
        "reference_gather_rows",
        [](const py::array_t<T, 0>& source, const Array<std::int64_t>& index, Array<float>& out, float scale) {
            kernels::reference::gather_rows(strided_rows(source, "source"), vector(index, "index"), scale,
                                            out_matrix(out, "out"));
        },
        "source"_a.noconvert(), "index"_a.noconvert(), "out"_a.noconvert(), "scale"_a = 1.0f);
}

}  // namespace

void register_rows(py::module_& m) {
    define_gather<std::uint8_t>(m);
    define_gather<float>(m);
    define_gather<double>(m);
    m.def(
        "random_rows",
        [](std::int64_t rows, const Array<std::int64_t>& index, Array<float>& out) {
            auto wanted = vector(index, "index");
            auto to = out_matrix(out, "out");
            py::gil_scoped_release no_gil;
            kernels::random_rows(rows, wanted, to);
        },
        "rows"_a, "index"_a.noconvert(), "out"_a.noconvert());
    m.def(
        "order",
        [](const Array<std::int64_t>& positions, Array<std::int64_t>& out, std::int64_t n, std::uint64_t seed,
           std::uint64_t epoch) {
            auto from = vector(positions, "positions");
            auto to = out_vector(out, "out");
            py::gil_scoped_release no_gil;
            kernels::order(from, to, n, seed, epoch);
        },
        "positions"_a.noconvert(), "out"_a.noconvert(), "n"_a, "seed"_a, "epoch"_a);
    m.def("reference_order", &kernels::reference::order, "position"_a, "n"_a, "seed"_a, "epoch"_a);
}

}  // namespace pyddl::bindings
