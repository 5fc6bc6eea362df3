#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/views.hpp"
#include "kernels/optimizers.hpp"
#include "kernels/reference/optimizers.hpp"
#include "kernels/simd.hpp"

namespace pyddl::bindings {
namespace {

using Vector = Array<float>;
using Rounded = Array<std::uint16_t>;  // bfloat16, which NumPy does not know
using kernels::OptimizerTable;
using kernels::UpdateOptions;

/// Which elements of the full vectors to update, with the weight decay of each range. Made once, used every
/// step.
struct Ranges {
    struct Range {
        std::int64_t begin, end;
        float weight_decay;
    };
    std::vector<Range> ranges;
    std::int64_t least_size = 0;  // of a vector that holds them all

    explicit Ranges(const std::vector<std::tuple<std::int64_t, std::int64_t, float>>& list) {
        for (const auto& [begin, end, weight_decay] : list) {
            if (begin < 0 || begin > end)
                throw std::invalid_argument("range (" + std::to_string(begin) + ", " + std::to_string(end) +
                                            ") is none; expected 0 <= begin <= end");
            ranges.push_back({begin, end, weight_decay});
            least_size = std::max(least_size, end);
        }
    }

    void check(const py::array& a, const char* name) const {
        if (a.ndim() != 1) wrong_dimensions(name, 1, a.ndim());
        if (a.size() < least_size)
            throw std::invalid_argument(std::string(name) + " has " + std::to_string(a.size()) +
                                        " elements, but the ranges end at " + std::to_string(least_size));
    }
    const float* in(const Vector& a, const char* name) const {
        check(a, name);
        return a.data();
    }
    float* out(Vector& a, const char* name) const {
        check(a, name);
        return a.mutable_data();
    }
    kernels::Bfloat16* out(std::optional<Rounded>& a, const char* name) const {
        if (!a) return nullptr;
        check(*a, name);
        return reinterpret_cast<kernels::Bfloat16*>(a->mutable_data());
    }
};

// Arguments in one order: parameters, gradients, state..., ranges, learning rate, scale, bound, the rule's
// own, and what receives the parameters in bfloat16. All are positional, and all ranges go in one call, because a
// training step may last only some hundred microseconds.

py::arg array() { return std::move(py::arg().noconvert()); }

py::arg_v rounded_vector() { return py::arg("rounded").noconvert().none(true) = py::none(); }

template <class T>
py::arg scalar() {
    return py::arg();
}

template <class... Own>
void define(py::module_& m, const std::string& name,
            void (*rule)(float*, const float*, std::int64_t, const UpdateOptions&, Own...)) {
    m.def(
        name.c_str(),
        [rule](Vector& parameters, const Vector& gradients, const Ranges& ranges, float learning_rate, float scale,
               float bound, Own... own, std::optional<Rounded>& rounded) {
            float* const p = ranges.out(parameters, "parameters");
            const float* const g = ranges.in(gradients, "gradients");
            kernels::Bfloat16* const r = ranges.out(rounded, "rounded");
            py::gil_scoped_release no_gil;  // below this line no Python object is touched
            for (const auto& [begin, end, decay] : ranges.ranges)
                rule(p + begin, g + begin, end - begin, {learning_rate, scale, decay, bound, r ? r + begin : nullptr},
                     own...);
        },
        array(), array(), py::arg(), py::arg(), py::arg(), py::arg(), scalar<Own>()..., rounded_vector());
}

template <class... Own>
void define(py::module_& m, const std::string& name,
            void (*rule)(float*, const float*, float*, std::int64_t, const UpdateOptions&, Own...)) {
    m.def(
        name.c_str(),
        [rule](Vector& parameters, const Vector& gradients, Vector& state, const Ranges& ranges, float learning_rate,
               float scale, float bound, Own... own, std::optional<Rounded>& rounded) {
            float* const p = ranges.out(parameters, "parameters");
            const float* const g = ranges.in(gradients, "gradients");
            float* const s = ranges.out(state, "state[0]");
            kernels::Bfloat16* const r = ranges.out(rounded, "rounded");
            py::gil_scoped_release no_gil;
            for (const auto& [begin, end, decay] : ranges.ranges)
                rule(p + begin, g + begin, s + begin, end - begin,
                     {learning_rate, scale, decay, bound, r ? r + begin : nullptr}, own...);
        },
        array(), array(), array(), py::arg(), py::arg(), py::arg(), py::arg(), scalar<Own>()..., rounded_vector());
}

template <class... Own>
void define(py::module_& m, const std::string& name,
            void (*rule)(float*, const float*, float*, float*, std::int64_t, const UpdateOptions&, Own...)) {
    m.def(
        name.c_str(),
        [rule](Vector& parameters, const Vector& gradients, Vector& state0, Vector& state1, const Ranges& ranges,
               float learning_rate, float scale, float bound, Own... own, std::optional<Rounded>& rounded) {
            float* const p = ranges.out(parameters, "parameters");
            const float* const g = ranges.in(gradients, "gradients");
            float *const s = ranges.out(state0, "state[0]"), *const t = ranges.out(state1, "state[1]");
            kernels::Bfloat16* const r = ranges.out(rounded, "rounded");
            py::gil_scoped_release no_gil;
            for (const auto& [begin, end, decay] : ranges.ranges)
                rule(p + begin, g + begin, s + begin, t + begin, end - begin,
                     {learning_rate, scale, decay, bound, r ? r + begin : nullptr}, own...);
        },
        array(), array(), array(), array(), py::arg(), py::arg(), py::arg(), py::arg(), scalar<Own>()...,
        rounded_vector());
}

void define_all(py::module_& m, const std::string& prefix, const OptimizerTable& rules) {
    define(m, prefix + "sgd", rules.sgd);
    define(m, prefix + "momentum", rules.momentum);
    define(m, prefix + "nesterov", rules.nesterov);
    define(m, prefix + "adagrad", rules.adagrad);
    define(m, prefix + "rmsprop", rules.rmsprop);
    define(m, prefix + "adadelta", rules.adadelta);
    define(m, prefix + "adam", rules.adam);
    define(m, prefix + "adamw", rules.adamw);
}

}  // namespace

void register_optimizers(py::module_& m) {
    py::class_<Ranges>(m, "Ranges")
        .def(py::init<const std::vector<std::tuple<std::int64_t, std::int64_t, float>>&>(), py::arg("ranges"));
    define_all(m, "", kernels::best<OptimizerTable>());
    define_all(m, "reference_", kernels::reference::optimizers);
}

}  // namespace pyddl::bindings
