/// Boltzmann machines: vectors as views, and a batch's hooks as callbacks.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <span>

#include "bindings/elements.hpp"
#include "bindings/hooks.hpp"
#include "bindings/keys.hpp"
#include "bindings/views.hpp"
#include "kernels/rbm.hpp"
#include "kernels/reference/rbm.hpp"

namespace pyddl::bindings {
namespace {

using namespace pybind11::literals;
using kernels::RandomKey;
using kernels::Rbm;
using Floats = Array<float>;
using Doubles = Array<double>;
using Index = Array<std::int64_t>;
using OptionalFloats = std::optional<Floats>;

kernels::MatrixView<float> optional_matrix(OptionalFloats& m, const char* name) {
    return m ? out_matrix(*m, name) : kernels::MatrixView<float>{};
}

kernels::RbmShape shape_of(const py::dict& d) {
    const auto value = [&](const char* name) { return d[name].cast<std::int64_t>(); };
    const auto kind = d["kind"].cast<std::string>();
    if (kind != "bernoulli" && kind != "gaussian")
        throw std::invalid_argument("kind is '" + kind + "'; expected bernoulli or gaussian");
    return {.visible = value("visible"),
            .hidden = value("hidden"),
            .kind = kind == "gaussian" ? kernels::Visible::gaussian : kernels::Visible::bernoulli,
            .weights = value("weights"),
            .visible_bias = value("visible_bias"),
            .hidden_bias = value("hidden_bias"),
            .log_variance = value("log_variance"),
            .learned = d["learned"].cast<bool>(),
            .code = d.contains("code") && d["code"].cast<bool>()};
}

double gradient(Rbm& self, const Floats& parameters, Floats& gradients, const Floats& rows, const Index& index,
                OptionalFloats& chains, std::optional<Index>& numbers, double weight, std::int64_t gibbs_steps,
                bool mean_reconstruction, OptionalFloats& visible_offsets, OptionalFloats& hidden_offsets,
                float offset_rate, float sparsity, float sparsity_cost, std::int64_t seed, std::int64_t purpose,
                std::int64_t step, std::int64_t turn, py::object sum, py::object ready,
                const std::optional<Array<std::uint16_t>>& rounded, const std::optional<Floats>& below,
                OptionalFloats& reservoir, OptionalFloats& reservoir_energies, OptionalFloats& works,
                std::int64_t parity) {
    kernels::RbmTurn t;
    const RandomKey key = key_of(seed, purpose, step);
    t.parameters = vector(parameters, "parameters");
    t.gradients = out_vector(gradients, "gradients");
    if (rounded) t.rounded = bfloat16_vector(*rounded, "rounded");
    t.rows = matrix(rows, "rows");
    t.index = vector(index, "index");
    t.persistent = chains.has_value();
    t.chains = optional_matrix(chains, "chains");
    if (numbers) t.numbers = vector(*numbers, "numbers");
    if (below)
        t.reservoir = {vector(*below, "below"), optional_matrix(reservoir, "reservoir"),
                       optional_matrix(reservoir_energies, "reservoir_energies"), optional_matrix(works, "works"),
                       parity};
    t.weight = weight;
    t.gibbs_steps = gibbs_steps;
    t.mean_reconstruction = mean_reconstruction;
    if (visible_offsets) t.visible_offsets = out_vector(*visible_offsets, "visible_offsets");
    if (hidden_offsets) t.hidden_offsets = out_vector(*hidden_offsets, "hidden_offsets");
    t.offset_rate = offset_rate;
    t.sparsity = sparsity;
    t.sparsity_cost = sparsity_cost;
    t.seed = key.seed;
    t.purpose = key.purpose;
    t.step = key.step;
    t.turn = field("turn", turn, Rbm::most_turns);
    if (!sum.is_none()) t.sum = {add_over_workers, &sum};
    if (!ready.is_none()) t.ready = {announce, &ready};
    const py::gil_scoped_release no_gil;  // below, only the hooks touch Python, with the GIL
    return self.gradient(t);
}

/// Means of one side's units given the other side's, which are `name`.
auto means(void (Rbm::*method)(std::span<const float>, kernels::MatrixView<const float>, kernels::MatrixView<float>),
           const char* name) {
    return [=](Rbm& self, const Floats& parameters, const Floats& given, Floats& out) {
        const auto p = vector(parameters, "parameters");
        const auto x = matrix(given, name);
        const auto y = out_matrix(out, "out");
        const py::gil_scoped_release no_gil;  // below this line no Python object is touched
        (self.*method)(p, x, y);
    };
}

/// Free energies of one side's units, which are `name`.
auto energies(void (Rbm::*method)(std::span<const float>, kernels::MatrixView<const float>, std::span<double>),
              const char* name) {
    return [=](Rbm& self, const Floats& parameters, const Floats& given, Doubles& out) {
        const auto p = vector(parameters, "parameters");
        const auto x = matrix(given, name);
        const auto y = out_vector(out, "out");
        const py::gil_scoped_release no_gil;  // below this line no Python object is touched
        (self.*method)(p, x, y);
    };
}

}  // namespace

void register_rbm(py::module_& m) {
    py::class_<Rbm>(m, "Rbm")
        .def(py::init([](const py::dict& shape, const std::string& dtype) {
                 return std::make_unique<Rbm>(shape_of(shape), element_named(dtype));
             }),
             "shape"_a, "dtype"_a = "float32")
        .def("gradient", gradient, "parameters"_a.noconvert(), "gradients"_a.noconvert(), "rows"_a.noconvert(),
             "index"_a.noconvert(), "chains"_a.noconvert().none(true), "numbers"_a.noconvert().none(true),
             py::kw_only(), "weight"_a, "gibbs_steps"_a, "mean_reconstruction"_a,
             "visible_offsets"_a.noconvert().none(true), "hidden_offsets"_a.noconvert().none(true), "offset_rate"_a,
             "sparsity"_a, "sparsity_cost"_a, "seed"_a, "purpose"_a, "step"_a, "turn"_a, "sum"_a, "ready"_a,
             "rounded"_a.noconvert().none(true), "below"_a.noconvert().none(true) = py::none(),
             "reservoir"_a.noconvert().none(true) = py::none(),
             "reservoir_energies"_a.noconvert().none(true) = py::none(), "works"_a.noconvert().none(true) = py::none(),
             "parity"_a = 0)
        .def("hidden_mean", means(&Rbm::hidden_mean, "v"), "parameters"_a.noconvert(), "v"_a.noconvert(),
             "out"_a.noconvert())
        .def("visible_mean", means(&Rbm::visible_mean, "h"), "parameters"_a.noconvert(), "h"_a.noconvert(),
             "out"_a.noconvert())
        .def("free_energy", energies(&Rbm::free_energy, "v"), "parameters"_a.noconvert(), "v"_a.noconvert(),
             "out"_a.noconvert())
        .def("hidden_free_energy", energies(&Rbm::hidden_free_energy, "h"), "parameters"_a.noconvert(),
             "h"_a.noconvert(), "out"_a.noconvert())
        .def(
            "climb",
            [](Rbm& self, const Floats& rungs, Floats& states, const Index& numbers, std::int64_t seed,
               std::int64_t purpose, std::int64_t step, std::int64_t first, std::int64_t sweeps, Doubles& works,
               Doubles& energies) {
                const auto p = matrix(rungs, "rungs");
                const auto x = out_matrix(states, "states");
                const auto i = vector(numbers, "numbers");
                const auto w = out_vector(works, "works");
                const auto e = out_matrix(energies, "energies");
                const RandomKey key = key_of(seed, purpose, step);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.climb(p, x, i, key, first, sweeps, w, e);
            },
            "rungs"_a.noconvert(), "states"_a.noconvert(), "numbers"_a.noconvert(), "seed"_a, "purpose"_a, "step"_a,
            "first"_a, "sweeps"_a, "works"_a.noconvert(), "energies"_a.noconvert())
        .def(
            "conditional_loss",
            [](Rbm& self, const Floats& parameters, const Floats& v, const Index& index, std::int64_t seed,
               std::int64_t purpose, std::int64_t step, std::int64_t count, Doubles& out) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(v, "v");
                const auto i = vector(index, "index");
                const auto y = out_vector(out, "out");
                const RandomKey key = key_of(seed, purpose, step);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.conditional_loss(p, x, i, key, count, y);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "index"_a.noconvert(), "seed"_a, "purpose"_a, "step"_a,
            "count"_a, "out"_a.noconvert())
        .def(
            "evaluate",
            [](Rbm& self, const Floats& parameters, const Floats& v, const Index& index, std::int64_t seed,
               std::int64_t purpose, std::int64_t step, std::int64_t count) {
                const auto p = vector(parameters, "parameters");
                const auto x = matrix(v, "v");
                const auto i = vector(index, "index");
                const RandomKey key = key_of(seed, purpose, step);
                const auto sums = [&] {
                    const py::gil_scoped_release no_gil;  // inside, no Python object is touched
                    return self.evaluate(p, x, i, key, count);
                }();
                return py::make_tuple(sums.loss, sums.squared_error, sums.free_energy);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "index"_a.noconvert(), "seed"_a, "purpose"_a, "step"_a,
            "count"_a)
        .def(
            "gibbs",
            [](Rbm& self, const Floats& parameters, Floats& v, const Index& numbers, std::int64_t seed,
               std::int64_t purpose, std::int64_t step, std::int64_t steps, std::optional<Doubles>& energies,
               OptionalFloats& mean) {
                const auto p = vector(parameters, "parameters");
                const auto x = out_matrix(v, "v");
                const auto i = vector(numbers, "numbers");
                const auto e = energies ? out_matrix(*energies, "energies") : kernels::MatrixView<double>{};
                const auto y = optional_matrix(mean, "mean");
                const RandomKey key = key_of(seed, purpose, step);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.gibbs(p, x, i, key, steps, e, y);
            },
            "parameters"_a.noconvert(), "v"_a.noconvert(), "numbers"_a.noconvert(), "seed"_a, "purpose"_a, "step"_a,
            "steps"_a, "energies"_a.noconvert().none(true) = py::none(), "mean"_a.noconvert().none(true) = py::none())
        .def(
            "anneal",
            [](Rbm& self, const Floats& parameters, const Floats& base, const Doubles& betas, Floats& v,
               const Index& numbers, std::int64_t seed, std::int64_t purpose, std::int64_t step, Doubles& log_weights) {
                const auto p = vector(parameters, "parameters"), b = vector(base, "base");
                const auto t = vector(betas, "betas");
                const auto x = out_matrix(v, "v");
                const auto i = vector(numbers, "numbers");
                const auto w = out_vector(log_weights, "log_weights");
                const RandomKey key = key_of(seed, purpose, step);
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                self.anneal(p, b, t, x, i, key, w);
            },
            "parameters"_a.noconvert(), "base"_a.noconvert(), "betas"_a.noconvert(), "v"_a.noconvert(),
            "numbers"_a.noconvert(), "seed"_a, "purpose"_a, "step"_a, "log_weights"_a.noconvert())
        .def("pieces", &Rbm::pieces, "of_hidden"_a)
        .def(
            "log_sum",
            [](Rbm& self, const Floats& parameters, bool of_hidden, std::int64_t begin, std::int64_t end) {
                const auto p = vector(parameters, "parameters");
                const py::gil_scoped_release no_gil;  // below this line no Python object is touched
                return self.log_sum(p, of_hidden, begin, end);
            },
            "parameters"_a.noconvert(), "of_hidden"_a, "begin"_a, "end"_a)
        .def("flops", &Rbm::flops, "gibbs_steps"_a);

    // ---- plain loops in double

    const auto variances = [](const std::optional<Doubles>& s2) {
        return s2 ? vector(*s2, "variances") : std::span<const double>{};
    };
    m.def(
        "reference_rbm_hidden_inputs",
        [=](const Doubles& v, const Doubles& w, const Doubles& c, const std::optional<Doubles>& s2, Doubles& out) {
            kernels::reference::rbm_hidden_inputs(matrix(v, "v"), matrix(w, "w"), vector(c, "c"), variances(s2),
                                                  out_matrix(out, "out"));
        },
        "v"_a.noconvert(), "w"_a.noconvert(), "c"_a.noconvert(), "variances"_a.noconvert().none(true),
        "out"_a.noconvert());
    m.def(
        "reference_rbm_free_energy",
        [=](const Doubles& v, const Doubles& w, const Doubles& b, const Doubles& c, const std::optional<Doubles>& s2,
            Doubles& out) {
            kernels::reference::rbm_free_energy(matrix(v, "v"), matrix(w, "w"), vector(b, "b"), vector(c, "c"),
                                                variances(s2), out_vector(out, "out"));
        },
        "v"_a.noconvert(), "w"_a.noconvert(), "b"_a.noconvert(), "c"_a.noconvert(),
        "variances"_a.noconvert().none(true), "out"_a.noconvert());
    m.def(
        "reference_rbm_log_partition",
        [=](const Doubles& w, const Doubles& b, const Doubles& c, const std::optional<Doubles>& s2) {
            return kernels::reference::rbm_log_partition(matrix(w, "w"), vector(b, "b"), vector(c, "c"), variances(s2));
        },
        "w"_a.noconvert(), "b"_a.noconvert(), "c"_a.noconvert(), "variances"_a.noconvert().none(true));
}

}  // namespace pyddl::bindings
