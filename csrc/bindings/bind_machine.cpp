/// Threads, oneDNN, and what the processor can do.
#include "bindings/elements.hpp"
#include "bindings/views.hpp"
#include "kernels/product.hpp"
#include "kernels/threads.hpp"

namespace pyddl::bindings {

using namespace pybind11::literals;

void register_machine(py::module_& m) {
    m.def("set_threads", &kernels::set_threads, "n"_a);
    m.def("threads", &kernels::threads);
    m.def("has_bfloat16", &kernels::has_bfloat16);
    m.def("onednn_version", &kernels::onednn_version);
    m.def(
        "product_peak",
        [](const std::string& dtype, double seconds) {
            const kernels::Element element = element_named(dtype);
            const py::gil_scoped_release no_gil;
            return kernels::product_peak(element, seconds);
        },
        "dtype"_a = "float32", "seconds"_a = 0.2);
}

}  // namespace pyddl::bindings
