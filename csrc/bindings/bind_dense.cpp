/// Dense layers, chains of them, threads and the product peak.
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "bindings/views.hpp"
#include "kernels/dense.hpp"
#include "kernels/dense_network.hpp"
#include "kernels/product.hpp"
#include "kernels/reference/dense.hpp"
#include "kernels/threads.hpp"

namespace pyddl::bindings {
namespace {

using namespace pybind11::literals;
using kernels::Activation;
using kernels::DenseNetwork;
using kernels::Element;
using LayerTuple = std::tuple<std::int64_t, std::int64_t, std::string, std::int64_t, std::int64_t>;

Element element_named(const std::string& name) {
    if (name == "float32") return Element::float32;
    if (name == "bfloat16") return Element::bfloat16;
    throw std::invalid_argument("dtype is '" + name + "'; expected float32 or bfloat16");
}

std::vector<kernels::DenseLayer> layers_of(const std::vector<LayerTuple>& tuples) {
    std::vector<kernels::DenseLayer> layers;
    for (const auto& [inputs, outputs, activation, weights, bias] : tuples)
        layers.push_back({inputs, outputs, kernels::activation_named(activation), weights, bias});
    return layers;
}

void call_python(void* context, std::int64_t begin, std::int64_t end) {
    const py::gil_scoped_acquire gil;
    (*static_cast<py::object*>(context))(begin, end);
}

/// None or a callable. The result refers to `ready`, which must outlive it.
kernels::Ready ready_of(py::object& ready) {
    if (ready.is_none()) return {};
    if (!PyCallable_Check(ready.ptr())) throw py::type_error("ready is neither None nor callable");
    return {call_python, &ready};
}

template <class T>
std::span<const T> optional_vector(const std::optional<Array<T>>& a, const char* name) {
    return a ? vector(*a, name) : std::span<const T>{};
}

template <class T>
std::span<T> optional_out_vector(std::optional<Array<T>>& a, const char* name) {
    return a ? out_vector(*a, name) : std::span<T>{};
}

template <class T>
kernels::MatrixView<T> optional_out_matrix(std::optional<Array<T>>& a, const char* name) {
    return a ? out_matrix(*a, name) : kernels::MatrixView<T>{};
}

template <class T, class Forward>
void define_forward(py::module_& m, const char* name, Forward forward) {
    m.def(
        name,
        [forward](const Array<T>& rows, const Array<T>& weights, const std::optional<Array<T>>& bias,
                  const std::string& activation, Array<T>& out) {
            const auto x = matrix(rows, "rows"), w = matrix(weights, "weights");
            const auto b = optional_vector(bias, "bias");
            const auto y = out_matrix(out, "out");
            const Activation a = kernels::activation_named(activation);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            forward(x, w, b, a, y);
        },
        "rows"_a.noconvert(), "weights"_a.noconvert(), "bias"_a.noconvert().none(true), "activation"_a,
        "out"_a.noconvert());
}

template <class T, class Backward>
void define_backward(py::module_& m, const char* name, Backward backward) {
    m.def(
        name,
        [backward](const Array<T>& rows, const Array<T>& weights, const Array<T>& outputs,
                   const std::string& activation, Array<T>& deltas, Array<T>& weight_gradients,
                   std::optional<Array<T>> bias_gradients, std::optional<Array<T>> row_gradients) {
            const auto x = matrix(rows, "rows"), w = matrix(weights, "weights"), y = matrix(outputs, "outputs");
            const auto d = out_matrix(deltas, "deltas"), dw = out_matrix(weight_gradients, "weight_gradients");
            const auto db = optional_out_vector(bias_gradients, "bias_gradients");
            const auto dx = optional_out_matrix(row_gradients, "row_gradients");
            const Activation a = kernels::activation_named(activation);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            backward(x, w, y, a, d, dw, db, dx);
        },
        "rows"_a.noconvert(), "weights"_a.noconvert(), "outputs"_a.noconvert(), "activation"_a, "deltas"_a.noconvert(),
        "weight_gradients"_a.noconvert(), "bias_gradients"_a.noconvert().none(true),
        "row_gradients"_a.noconvert().none(true) = py::none());
}

}  // namespace

void register_dense(py::module_& m) {
    py::class_<DenseNetwork>(m, "DenseNetwork")
        .def(py::init([](const std::vector<LayerTuple>& layers, const std::string& dtype) {
                 return std::make_unique<DenseNetwork>(layers_of(layers), element_named(dtype));
             }),
             "layers"_a, "dtype"_a = "float32")
        .def(
            "forward",
            [](DenseNetwork& self, const Array<float>& parameters, const Array<float>& rows, Array<float>& out,
               std::int64_t first, std::int64_t last) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(rows, "rows");
                const auto y = out_matrix(out, "out");
                const py::gil_scoped_release no_gil;  // below, no Python object is touched
                self.forward(p, x, y, first, last);
            },
            "parameters"_a.noconvert(), "rows"_a.noconvert(), "out"_a.noconvert(), "first"_a = 0, "last"_a = -1)
        .def(
            "gradient",
            [](DenseNetwork& self, const Array<float>& parameters, Array<float>& gradients, const Array<float>& rows,
               const Array<float>& targets, const std::string& loss, py::object ready,
               const std::optional<Array<std::uint16_t>>& rounded) {
                const auto p = vector(parameters, "parameters");
                const auto g = out_vector(gradients, "gradients");
                const auto x = matrix(rows, "rows"), t = matrix(targets, "targets");
                const auto l = kernels::loss_named(loss);
                const kernels::Ready r = ready_of(ready);
                const auto given = optional_vector(rounded, "rounded");
                const std::span bits(reinterpret_cast<const kernels::Bfloat16*>(given.data()), given.size());
                const py::gil_scoped_release no_gil;  // below, only call_python touches Python, with the GIL
                return self.gradient(p, g, x, t, l, r, bits);
            },
            "parameters"_a.noconvert(), "gradients"_a.noconvert(), "rows"_a.noconvert(), "targets"_a.noconvert(),
            "loss"_a, "ready"_a = py::none(), "rounded"_a.noconvert().none(true) = py::none())
        .def(
            "evaluate",
            [](DenseNetwork& self, const Array<float>& parameters, const Array<float>& rows,
               const Array<float>& targets, const std::string& loss) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(rows, "rows"), t = matrix(targets, "targets");
                const auto l = kernels::loss_named(loss);
                const auto sums = [&] {
                    const py::gil_scoped_release no_gil;  // inside, no Python object is touched
                    return self.evaluate(p, x, t, l);
                }();
                return std::pair(sums.loss, sums.squared_error);
            },
            "parameters"_a.noconvert(), "rows"_a.noconvert(), "targets"_a.noconvert(), "loss"_a)
        .def_property_readonly("flops", &DenseNetwork::flops);

    define_forward<float>(m, "dense_forward", kernels::dense_forward);
    define_backward<float>(m, "dense_backward", kernels::dense_backward);
    define_forward<double>(m, "reference_dense_forward", kernels::reference::dense_forward<double>);
    define_backward<double>(m, "reference_dense_backward", kernels::reference::dense_backward<double>);
    m.def(
        "reference_network_gradient",
        [](const std::vector<LayerTuple>& layers, const Array<double>& parameters, Array<double>& gradients,
           const Array<double>& rows, const Array<double>& targets, const std::string& loss) {
            return kernels::reference::network_gradient<double>(
                layers_of(layers), vector(parameters, "parameters"), out_vector(gradients, "gradients"),
                matrix(rows, "rows"), matrix(targets, "targets"), kernels::loss_named(loss));
        },
        "layers"_a, "parameters"_a.noconvert(), "gradients"_a.noconvert(), "rows"_a.noconvert(),
        "targets"_a.noconvert(), "loss"_a);

    m.def("set_threads", &kernels::set_threads, "n"_a);
    m.def("threads", &kernels::threads);
    m.def("has_bfloat16", &kernels::has_bfloat16);
    m.def("onednn_version", &kernels::onednn_version);
    m.def(
        "product_peak",
        [](const std::string& dtype, double seconds) {
            const Element element = element_named(dtype);
            const py::gil_scoped_release no_gil;
            return kernels::product_peak(element, seconds);
        },
        "dtype"_a = "float32", "seconds"_a = 0.2);
}

}  // namespace pyddl::bindings
