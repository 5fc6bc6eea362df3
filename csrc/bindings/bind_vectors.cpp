#include <tuple>

#include "bindings/views.hpp"
#include "kernels/reference/vectors.hpp"
#include "kernels/simd.hpp"
#include "kernels/vectors.hpp"

namespace pyddl::bindings {
namespace {

using Vector = Array<float>;
using kernels::VectorTable;

void check_same_size(std::span<const float> into, std::span<const float> x) {
    if (into.size() != x.size())
        throw std::invalid_argument("into has " + std::to_string(into.size()) + " elements, x has " +
                                    std::to_string(x.size()) + "; expected the same number");
}

void define_all(py::module_& m, const std::string& prefix, const VectorTable& f) {
    m.def((prefix + "add").c_str(),
          [f = f.add](Vector& into, const Vector& x) {
              const auto out = out_vector(into, "into");
              const auto in = vector(x, "x");
              check_same_size(out, in);
              py::gil_scoped_release no_gil;  // below this line no Python object is touched
              f(out.data(), in.data(), std::ssize(out));
          },
          py::arg("into").noconvert(), py::arg("x").noconvert());
    for (const auto& [name, run, factor] :
         {std::tuple("add_scaled", f.add_scaled, "scale"), std::tuple("approach", f.approach, "weight")})
        m.def((prefix + name).c_str(),
              [run](Vector& into, const Vector& x, float by) {
                  const auto out = out_vector(into, "into");
                  const auto in = vector(x, "x");
                  check_same_size(out, in);
                  py::gil_scoped_release no_gil;
                  run(out.data(), in.data(), std::ssize(out), by);
              },
              py::arg("into").noconvert(), py::arg("x").noconvert(), py::arg(factor));
    m.def((prefix + "scale").c_str(),
          [f = f.scale](Vector& x, float factor) {
              const auto out = out_vector(x, "x");
              py::gil_scoped_release no_gil;
              f(out.data(), std::ssize(out), factor);
          },
          py::arg("x").noconvert(), py::arg("factor"));
    m.def((prefix + "sum_of_squares").c_str(),
          [f = f.sum_of_squares](const Vector& x) {
              const auto in = vector(x, "x");
              py::gil_scoped_release no_gil;
              return f(in.data(), std::ssize(in));
          },
          py::arg("x").noconvert());
    m.def((prefix + "first_not_finite").c_str(),
          [f = f.first_not_finite](const Vector& x) {
              const auto in = vector(x, "x");
              py::gil_scoped_release no_gil;
              return f(in.data(), std::ssize(in));
          },
          py::arg("x").noconvert());
}

}  // namespace

void register_vectors(py::module_& m) {
    define_all(m, "", kernels::best<VectorTable>());
    define_all(m, "reference_", kernels::reference::vectors);
}

}  // namespace pyddl::bindings
