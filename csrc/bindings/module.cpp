/// The compute module, pyddl._core: a list of names. One file per kernel family registers its functions.
#include <pybind11/pybind11.h>

#include "kernels/simd.hpp"
#include "process/crashes.hpp"
#include "process/stacks.hpp"

namespace pyddl::bindings {
void register_codes(pybind11::module_& m);
void register_rows(pybind11::module_& m);
void register_losses(pybind11::module_& m);
void register_machine(pybind11::module_& m);
void register_mapped_file(pybind11::module_& m);
void register_network(pybind11::module_& m);
void register_optimizers(pybind11::module_& m);
void register_random(pybind11::module_& m);
void register_rbm(pybind11::module_& m);
void register_ssrbm(pybind11::module_& m);
void register_vectors(pybind11::module_& m);
}  // namespace pyddl::bindings

PYBIND11_MODULE(_core, m) {
    using namespace pyddl;
    m.doc() = "pyddl's compute kernels; see pyddl/_core.pyi";
    m.def("simd_level", &kernels::simd_level);
    m.def("name_crashes", &process::name_crashes, pybind11::arg("name"));
    m.def("write_native_stacks", &process::write_stacks, pybind11::arg("descriptor"),
          pybind11::call_guard<pybind11::gil_scoped_release>());
    bindings::register_codes(m);
    bindings::register_rows(m);
    bindings::register_losses(m);
    bindings::register_machine(m);
    bindings::register_mapped_file(m);
    bindings::register_network(m);
    bindings::register_optimizers(m);
    bindings::register_random(m);
    bindings::register_rbm(m);
    bindings::register_ssrbm(m);
    bindings::register_vectors(m);
}
