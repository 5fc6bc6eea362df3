/// Losses, with and without their gradients.
#include <pybind11/stl.h>

#include <optional>

#include "bindings/views.hpp"
#include "kernels/check.hpp"
#include "kernels/losses.hpp"
#include "kernels/reference/dense.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::bindings {

using namespace pybind11::literals;

namespace {

/// Losses whose targets are values for each output.
kernels::Loss loss_of_values(const std::string& name) {
    const kernels::Loss loss = kernels::loss_named(name);
    if (loss == kernels::Loss::softmax)
        throw std::invalid_argument("loss is 'softmax', whose targets are labels; expected mse or bce");
    return loss;
}

}  // namespace

void register_losses(py::module_& m) {
    m.def(
        "loss_gradient",
        [](const Array<float>& outputs, const Array<float>& targets, const std::string& loss,
           const std::string& activation, Array<float>& deltas, std::optional<Array<float>> bias_gradients) {
            const auto y = matrix(outputs, "outputs"), t = matrix(targets, "targets");
            const auto d = out_matrix(deltas, "deltas");
            kernels::check_shape("targets", t, y.rows, y.columns);
            kernels::check_shape("deltas", d, y.rows, y.columns);
            float* bias = nullptr;
            if (bias_gradients) {
                const auto b = out_vector(*bias_gradients, "bias_gradients");
                kernels::check_size("bias_gradients", b, y.columns);
                bias = b.data();
            }
            const auto l = loss_of_values(loss);
            const auto a = kernels::activation_named(activation);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            const kernels::ThreadScope scope;
            return kernels::best<kernels::LossTable<float>>().gradient(l, a, y.data, t.data, d.data, y.rows, y.columns,
                                                                       bias);
        },
        "outputs"_a.noconvert(), "targets"_a.noconvert(), "loss"_a, "activation"_a, "deltas"_a.noconvert(),
        "bias_gradients"_a.noconvert().none(true) = py::none());
    m.def(
        "loss_sums",
        [](const Array<float>& outputs, const Array<float>& targets, const std::string& loss) {
            const auto y = matrix(outputs, "outputs"), t = matrix(targets, "targets");
            kernels::check_shape("targets", t, y.rows, y.columns);
            const auto l = loss_of_values(loss);
            const auto sums = [&] {
                const py::gil_scoped_release no_gil;  // inside, no Python object is touched
                const kernels::ThreadScope scope;
                return kernels::best<kernels::LossTable<float>>().evaluate(l, y.data, t.data, y.rows, y.columns);
            }();
            return std::pair(sums.loss, sums.squared_error);
        },
        "outputs"_a.noconvert(), "targets"_a.noconvert(), "loss"_a);
    m.def(
        "loss_of_rows",
        [](const Array<float>& outputs, const Array<float>& targets, const std::string& loss, Array<double>& out) {
            const auto y = matrix(outputs, "outputs"), t = matrix(targets, "targets");
            const auto of_rows = out_vector(out, "out");
            const std::int64_t samples = t.rows ? y.rows / t.rows : 0;
            kernels::check_shape("outputs", y, t.rows * samples, t.columns);
            kernels::check_size("out", of_rows, y.rows);
            const auto l = loss_of_values(loss);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            const kernels::ThreadScope scope;
            kernels::best<kernels::LossTable<float>>().of_rows(l, y.data, t.data, of_rows.data(), t.rows, samples,
                                                               t.columns);
        },
        "outputs"_a.noconvert(), "targets"_a.noconvert(), "loss"_a, "out"_a.noconvert());
    m.def(
        "reference_loss_sums",
        [](const Array<double>& outputs, const Array<double>& targets, const std::string& loss,
           std::optional<Array<double>> derivatives) {
            const auto y = matrix(outputs, "outputs"), t = matrix(targets, "targets");
            kernels::check_shape("targets", t, y.rows, y.columns);
            const auto d = derivatives ? out_matrix(*derivatives, "derivatives") : kernels::MatrixView<double>{};
            const auto sums = kernels::reference::loss_sums<double>(loss_of_values(loss), y, t, d);
            return std::pair(sums.loss, sums.squared_error);
        },
        "outputs"_a.noconvert(), "targets"_a.noconvert(), "loss"_a,
        "derivatives"_a.noconvert().none(true) = py::none());
    m.def(
        "softmax_gradient",
        [](const Array<float>& logits, const Array<std::int64_t>& labels, Array<float>& deltas,
           std::optional<Array<float>> bias_gradients) {
            const auto z = matrix(logits, "logits");
            const auto c = vector(labels, "labels");
            const auto d = out_matrix(deltas, "deltas");
            kernels::check_labels(c, z.rows, z.columns);
            kernels::check_shape("deltas", d, z.rows, z.columns);
            float* bias = nullptr;
            if (bias_gradients) {
                const auto b = out_vector(*bias_gradients, "bias_gradients");
                kernels::check_size("bias_gradients", b, z.columns);
                bias = b.data();
            }
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            const kernels::ThreadScope scope;
            return kernels::best<kernels::LossTable<float>>().softmax_gradient(z.data, c.data(), d.data, z.rows,
                                                                               z.columns, bias);
        },
        "logits"_a.noconvert(), "labels"_a.noconvert(), "deltas"_a.noconvert(),
        "bias_gradients"_a.noconvert().none(true) = py::none());
    m.def(
        "softmax_sums",
        [](const Array<float>& logits, const Array<std::int64_t>& labels) {
            const auto z = matrix(logits, "logits");
            const auto c = vector(labels, "labels");
            kernels::check_labels(c, z.rows, z.columns);
            const auto sums = [&] {
                const py::gil_scoped_release no_gil;  // inside, no Python object is touched
                const kernels::ThreadScope scope;
                return kernels::best<kernels::LossTable<float>>().softmax_evaluate(z.data, c.data(), z.rows, z.columns);
            }();
            return std::pair(sums.loss, sums.accuracy);
        },
        "logits"_a.noconvert(), "labels"_a.noconvert());
    m.def(
        "reference_softmax_sums",
        [](const Array<double>& logits, const Array<std::int64_t>& labels, std::optional<Array<double>> derivatives) {
            const auto z = matrix(logits, "logits");
            const auto c = vector(labels, "labels");
            kernels::check_labels(c, z.rows, z.columns);
            const auto d = derivatives ? out_matrix(*derivatives, "derivatives") : kernels::MatrixView<double>{};
            const auto sums = kernels::reference::softmax_sums<double>(z, c, d);
            return std::pair(sums.loss, sums.accuracy);
        },
        "logits"_a.noconvert(), "labels"_a.noconvert(), "derivatives"_a.noconvert().none(true) = py::none());
}

}  // namespace pyddl::bindings
