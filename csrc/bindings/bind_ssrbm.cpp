/// Spike-and-slab machines: vectors as views, and a batch's hook as a callback.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <span>

#include "bindings/elements.hpp"
#include "bindings/hooks.hpp"
#include "bindings/keys.hpp"
#include "bindings/views.hpp"
#include "kernels/ssrbm.hpp"

namespace pyddl::bindings {
namespace {

using namespace pybind11::literals;
using kernels::RandomKey;
using kernels::Ssrbm;
using Floats = Array<float>;
using Doubles = Array<double>;
using Index = Array<std::int64_t>;

kernels::SsrbmShape shape_of(const py::dict& d) {
    const auto value = [&](const char* name) { return d[name].cast<std::int64_t>(); };
    return {.visible = value("visible"),
            .hidden = value("hidden"),
            .pool = value("pool"),
            .weights = value("weights"),
            .spike_bias = value("spike_bias"),
            .log_precision = value("log_precision"),
            .slab_mean = value("slab_mean"),
            .log_phi = value("log_phi"),
            .log_alpha = value("log_alpha"),
            .diagonal_precision = d["diagonal_precision"].cast<bool>(),
            .diagonal_alpha = d["diagonal_alpha"].cast<bool>()};
}

kernels::SsrbmView view_of(const Floats& mean, float scale, float radius) {
    return {vector(mean, "mean"), scale, radius};
}

double gradient(Ssrbm& self, const Floats& parameters, Floats& gradients, const Floats& rows, const Index& index,
                std::optional<Floats>& chains, std::optional<Index>& numbers, const Floats& mean, float scale,
                float radius, double weight, std::int64_t gibbs_steps, std::int64_t seed, std::int64_t purpose,
                std::int64_t step, std::int64_t turn, py::object ready,
                const std::optional<Array<std::uint16_t>>& rounded) {
    kernels::SsrbmTurn t;
    const RandomKey key = key_of(seed, purpose, step);
    t.parameters = vector(parameters, "parameters");
    t.gradients = out_vector(gradients, "gradients");
    if (rounded) t.rounded = bfloat16_vector(*rounded, "rounded");
    t.rows = matrix(rows, "rows");
    t.index = vector(index, "index");
    t.persistent = chains.has_value();
    if (chains) t.chains = out_matrix(*chains, "chains");
    if (numbers) t.numbers = vector(*numbers, "numbers");
    t.weight = weight;
    t.gibbs_steps = gibbs_steps;
    t.seed = key.seed;
    t.purpose = key.purpose;
    t.step = key.step;
    t.turn = field("turn", turn, Ssrbm::most_turns);
    if (!ready.is_none()) t.ready = {announce, &ready};
    const auto view = view_of(mean, scale, radius);
    const py::gil_scoped_release no_gil;  // below, only the hook touches Python, with the GIL
    return self.gradient(t, view);
}

}  // namespace

void register_ssrbm(py::module_& m) {
    py::class_<Ssrbm>(m, "Ssrbm")
        .def(py::init([](const py::dict& shape, const std::string& dtype) {
                 return std::make_unique<Ssrbm>(shape_of(shape), element_named(dtype));
             }),
             "shape"_a, "dtype"_a = "float32")
        .def("gradient", gradient, "parameters"_a.noconvert(), "gradients"_a.noconvert(), "rows"_a.noconvert(),
             "index"_a.noconvert(), "chains"_a.noconvert().none(true), "numbers"_a.noconvert().none(true),
             py::kw_only(), "mean"_a.noconvert(), "scale"_a, "radius"_a, "weight"_a, "gibbs_steps"_a, "seed"_a,
             "purpose"_a, "step"_a, "turn"_a, "ready"_a, "rounded"_a.noconvert().none(true))
        .def(
            "spikes",
            [](Ssrbm& self, const Floats& parameters, const Floats& v, Floats& out, const Floats& mean, float scale,
               bool probability) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(v, "v");
                const auto y = out_matrix(out, "out");
                const auto view = view_of(mean, scale, 0);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.spikes(p, view, x, probability, y);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "out"_a.noconvert(), py::kw_only(), "mean"_a.noconvert(),
            "scale"_a, "probability"_a)
        .def(
            "reconstruct",
            [](Ssrbm& self, const Floats& parameters, const Floats& v, Floats& out, const Floats& mean, float scale) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(v, "v");
                const auto y = out_matrix(out, "out");
                const auto view = view_of(mean, scale, 0);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.reconstruct(p, view, x, y);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "out"_a.noconvert(), py::kw_only(), "mean"_a.noconvert(),
            "scale"_a)
        .def(
            "free_energy",
            [](Ssrbm& self, const Floats& parameters, const Floats& v, Doubles& out, const Floats& mean, float scale) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(v, "v");
                const auto y = out_vector(out, "out");
                const auto view = view_of(mean, scale, 0);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.free_energy(p, view, x, y);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "out"_a.noconvert(), py::kw_only(), "mean"_a.noconvert(),
            "scale"_a)
        .def(
            "evaluate",
            [](Ssrbm& self, const Floats& parameters, const Floats& v, const Index& index, const Floats& mean,
               float scale, float radius, std::int64_t seed, std::int64_t purpose, std::int64_t step) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(v, "v");
                const auto i = vector(index, "index");
                const auto view = view_of(mean, scale, radius);
                const RandomKey key = key_of(seed, purpose, step);
                const auto sums = [&] {
                    const py::gil_scoped_release no_gil;  // inside, no Python object is touched
                    return self.evaluate(p, view, x, i, key);
                }();
                return py::make_tuple(sums.squared_error, sums.free_energy, sums.rejected);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "index"_a.noconvert(), py::kw_only(), "mean"_a.noconvert(),
            "scale"_a, "radius"_a, "seed"_a, "purpose"_a, "step"_a)
        .def(
            "gibbs",
            [](Ssrbm& self, const Floats& parameters, Floats& v, const Index& numbers, const Floats& mean, float scale,
               float radius, std::int64_t seed, std::int64_t purpose, std::int64_t step, std::int64_t steps) {
                const auto p = vector(parameters, "parameters");
                const auto x = out_matrix(v, "v");
                const auto i = vector(numbers, "numbers");
                const auto view = view_of(mean, scale, radius);
                const RandomKey key = key_of(seed, purpose, step);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.gibbs(p, view, x, i, key, steps);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "numbers"_a.noconvert(), py::kw_only(), "mean"_a.noconvert(),
            "scale"_a, "radius"_a, "seed"_a, "purpose"_a, "step"_a, "steps"_a)
        .def(
            "log_normalisers",
            [](Ssrbm& self, const Floats& parameters, std::int64_t begin, std::int64_t end, double shift) {
                const auto p = vector(parameters, "parameters");
                const auto states = [&] {
                    const py::gil_scoped_release no_gil;  // inside, no Python object is touched
                    return self.log_normalisers(p, begin, end, shift);
                }();
                return py::make_tuple(states.log_sum, states.improper);
            },
            "parameters"_a.noconvert(), "begin"_a, "end"_a, "shift"_a = 0.0)
        .def("flops", &Ssrbm::flops, "gibbs_steps"_a);
}

}  // namespace pyddl::bindings
