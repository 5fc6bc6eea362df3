/// Networks: layers by named values, vectors as views, and a batch's hooks as callbacks.
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "bindings/elements.hpp"
#include "bindings/hooks.hpp"
#include "bindings/views.hpp"
#include "kernels/layers/convolution.hpp"
#include "kernels/layers/dense.hpp"
#include "kernels/layers/noise.hpp"
#include "kernels/layers/normalisation.hpp"
#include "kernels/layers/pooling.hpp"
#include "kernels/layers/reshape.hpp"
#include "kernels/layers/sparsity.hpp"
#include "kernels/network.hpp"
#include "kernels/reference/dense.hpp"

namespace pyddl::bindings {
namespace {

using namespace pybind11::literals;
using kernels::Bfloat16;
using kernels::Loss;
using kernels::Network;
using kernels::View;
using Floats = Array<float>;
using OptionalFloats = std::optional<Floats>;

// ---- layers

template <class T>
T value(const py::dict& layer, const char* name) {
    if (!layer.contains(name)) throw std::invalid_argument("a layer has no " + std::string(name));
    return layer[name].cast<T>();
}

template <class T>
T value(const py::dict& layer, const char* name, T otherwise) {
    return layer.contains(name) ? layer[name].cast<T>() : otherwise;
}

kernels::DenseLayer dense_layer(const py::dict& layer) {
    return {.inputs = value<std::int64_t>(layer, "inputs"),
            .outputs = value<std::int64_t>(layer, "outputs"),
            .activation = kernels::activation_named(value<std::string>(layer, "activation")),
            .weights = value<std::int64_t>(layer, "weight"),
            .bias = value<std::int64_t>(layer, "bias", -1),
            .cuts = value<std::vector<std::int64_t>>(layer, "cuts", {}),
            .part = value<std::int64_t>(layer, "part", 0),
            .transposed = value<bool>(layer, "transposed", false),
            .shared = value<bool>(layer, "shared", false)};
}

/// Of (height, width, channels), or of (features,).
kernels::Picture picture(const py::dict& layer, const char* name) {
    const auto shape = value<std::vector<std::int64_t>>(layer, name);
    if (shape.size() == 1) return {1, 1, shape[0]};
    if (shape.size() != 3)
        throw std::invalid_argument("a layer's " + std::string(name) + " has " + std::to_string(shape.size()) +
                                    " sizes; expected height, width, channels");
    return {shape[0], shape[1], shape[2]};
}

kernels::ConvLayer conv_layer(const py::dict& layer, bool transposed) {
    kernels::ConvolutionShape shape{.large = picture(layer, transposed ? "to" : "from"),
                                    .small = picture(layer, transposed ? "from" : "to"),
                                    .kernel = value<std::int64_t>(layer, "kernel"),
                                    .stride = value<std::int64_t>(layer, "stride"),
                                    .padding = value<std::int64_t>(layer, "padding")};
    return {.shape = shape,
            .transposed = transposed,
            .winograd = value<bool>(layer, "winograd", true),
            .activation = kernels::activation_named(value<std::string>(layer, "activation")),
            .weights = value<std::int64_t>(layer, "weight"),
            .bias = value<std::int64_t>(layer, "bias", -1)};
}

kernels::ReshapeLayer reshape_layer(const py::dict& layer) {
    using Order = kernels::ReshapeLayer::Order;
    const auto order = value<std::string>(layer, "order");
    return {picture(layer, "picture"), order == "from_planes" ? Order::from_planes
                                       : order == "to_planes" ? Order::to_planes
                                                              : Order::kept};
}

kernels::BatchNormLayer batch_norm_layer(const py::dict& layer) {
    return {.picture = picture(layer, "picture"),
            .name = value<std::string>(layer, "name", ""),
            .activation = kernels::activation_named(value<std::string>(layer, "activation")),
            .decay = value<float>(layer, "decay"),
            .epsilon = value<float>(layer, "epsilon"),
            .synchronised = value<bool>(layer, "synchronised"),
            .scale = value<std::int64_t>(layer, "scale"),
            .shift = value<std::int64_t>(layer, "shift"),
            .sums = value<std::int64_t>(layer, "sums"),
            .squares = value<std::int64_t>(layer, "squares"),
            .rows = value<std::int64_t>(layer, "rows")};
}

kernels::LayerNormLayer layer_norm_layer(const py::dict& layer) {
    return {.picture = picture(layer, "picture"),
            .activation = kernels::activation_named(value<std::string>(layer, "activation")),
            .epsilon = value<float>(layer, "epsilon"),
            .scale = value<std::int64_t>(layer, "scale"),
            .shift = value<std::int64_t>(layer, "shift")};
}

kernels::NoiseKey noise_key(const py::dict& layer) {
    return {value<std::uint64_t>(layer, "purpose"), value<std::int64_t>(layer, "number", 0)};
}

kernels::NoiseLayer noise_layer(const py::dict& layer, kernels::NoiseLayer::Kind kind) {
    return {kind, value<std::int64_t>(layer, "size"), value<float>(layer, "amount"), noise_key(layer)};
}

kernels::GaussianLayer gaussian_layer(const py::dict& layer) {
    return {value<std::int64_t>(layer, "size"), value<float>(layer, "weight"), noise_key(layer)};
}

template <class Native>
std::unique_ptr<kernels::Layer> made(auto layer) {
    return std::make_unique<Native>(std::move(layer));
}

using Make = std::unique_ptr<kernels::Layer> (*)(const py::dict&);
struct Kind {
    const char* name;
    Make make;
};

constexpr Kind kinds[] = {
    {"dense", [](const py::dict& l) { return made<kernels::Dense>(dense_layer(l)); }},
    {"reshape", [](const py::dict& l) { return made<kernels::Reshape>(reshape_layer(l)); }},
    {"conv", [](const py::dict& l) { return made<kernels::Conv>(conv_layer(l, false)); }},
    {"conv_transpose", [](const py::dict& l) { return made<kernels::Conv>(conv_layer(l, true)); }},
    {"pool",
     [](const py::dict& l) {
         return made<kernels::Pool>(
             kernels::PoolLayer{picture(l, "picture"), value<std::int64_t>(l, "size"), value<bool>(l, "largest")});
     }},
    {"resize",
     [](const py::dict& l) {
         return made<kernels::Resize>(
             kernels::ResizeLayer{picture(l, "picture"), value<std::int64_t>(l, "factor"), value<bool>(l, "bilinear")});
     }},
    {"batch_norm", [](const py::dict& l) { return made<kernels::BatchNorm>(batch_norm_layer(l)); }},
    {"layer_norm", [](const py::dict& l) { return made<kernels::LayerNorm>(layer_norm_layer(l)); }},
    {"dropout",
     [](const py::dict& l) { return made<kernels::Noise>(noise_layer(l, kernels::NoiseLayer::Kind::dropout)); }},
    {"masking",
     [](const py::dict& l) { return made<kernels::Noise>(noise_layer(l, kernels::NoiseLayer::Kind::masking)); }},
    {"noise",
     [](const py::dict& l) { return made<kernels::Noise>(noise_layer(l, kernels::NoiseLayer::Kind::gaussian)); }},
    {"gaussian", [](const py::dict& l) { return made<kernels::Gaussian>(gaussian_layer(l)); }},
    {"sparsity",
     [](const py::dict& l) {
         return made<kernels::Sparsity>(kernels::SparsityLayer{value<std::int64_t>(l, "size"),
                                                               value<float>(l, "target"), value<float>(l, "cost")});
     }},
};

std::unique_ptr<kernels::Layer> compiled(const py::dict& layer) {
    const auto wanted = value<std::string>(layer, "kind");
    std::string names;
    for (const auto& [name, make] : kinds) {
        if (wanted == name) return make(layer);
        if (!names.empty()) names += ", ";
        names += name;
    }
    throw std::invalid_argument("a layer's kind is '" + wanted + "'; expected one of " + names);
}

// ---- what goes with a pass

/// The array itself, never a copy of it.
template <class T>
Array<T> typed(const py::object& array, const char* otherwise) {
    if (!Array<T>::check_(array)) throw py::type_error(otherwise);
    return py::reinterpret_borrow<Array<T>>(array);
}

/// Memory that somebody else owns, for the length of a call.
py::array borrowed(View v) {
    return py::array(py::dtype::of<float>(), {v.rows, v.columns}, static_cast<const float*>(v.data), py::none());
}

py::list list_of(std::span<const std::int64_t> values) {
    py::list list;
    for (const std::int64_t value : values) list.append(value);
    return list;
}

/// A model group, and the memory that it lends.
struct Group {
    py::object group, room;

    static void gather(void* self, View block, std::span<const std::int64_t> cuts, View out) {
        const py::gil_scoped_acquire gil;
        static_cast<Group*>(self)->group.attr("gather_columns")(borrowed(block), list_of(cuts), borrowed(out));
    }
    static void sum(void* self, View whole, std::span<const std::int64_t> cuts, View out) {
        const py::gil_scoped_acquire gil;
        auto& [group, room] = *static_cast<Group*>(self);
        if (!room || room.cast<Floats>().data() != whole.data)
            throw std::invalid_argument("columns are summed that are not in the room last asked for");
        group.attr("sum_columns")(room, list_of(cuts), borrowed(out));
    }
    static View lend(void* self, std::int64_t rows, std::int64_t columns) {
        const py::gil_scoped_acquire gil;
        auto& [group, room] = *static_cast<Group*>(self);
        room = group.attr("room")(rows, columns);
        auto memory = typed<float>(room, "room is no contiguous float32 array");
        if (memory.ndim() != 2 || memory.shape(0) != rows || memory.shape(1) != columns)
            throw std::invalid_argument("room has another shape than was asked for");
        return {memory.mutable_data(), rows, columns};
    }
};

/// Names of a batch's attributes, made once: a string for each look-up would cost more than the look-up.
struct Names {
    static PyObject* made(const char* name) { return PyUnicode_InternFromString(name); }
    PyObject *seed = made("seed"), *step = made("step"), *turn = made("turn"), *index = made("index"),
             *sum = made("sum"), *rounded = made("rounded"), *group = made("group"), *ready = made("ready");
};

py::object attribute(const py::object& batch, PyObject* Names::* name) {
    static const Names names;  // never freed: interned strings, wanted until the process ends
    return py::getattr(batch, py::handle(names.*name));
}

/// A pass whose hooks are a batch's: any object with the attributes of `pyddl.data.batch.Batch`, or None. The callbacks
/// refer to this object, which holds what they call while the GIL is released.
class Call {
  public:
    Call(const Floats& parameters, const OptionalFloats& buffers, const py::object& batch) {
        pass.parameters = vector(parameters, "parameters");
        if (buffers) {
            Floats same = *buffers;
            pass.buffers = out_vector(same, "buffers");
        }
        if (batch.is_none()) return;
        const auto number = [&](PyObject* Names::* name) { return attribute(batch, name).cast<std::uint64_t>(); };
        pass.key = {number(&Names::seed), number(&Names::step), number(&Names::turn)};
        index_ = attribute(batch, &Names::index);
        pass.index = vector(typed<std::int64_t>(index_, "index is no contiguous int64 vector"), "index");
        sum_ = attribute(batch, &Names::sum);
        pass.sum = {add_over_workers, &sum_};
        rounded_ = attribute(batch, &Names::rounded);
        if (!rounded_.is_none())
            pass.rounded =
                bfloat16_vector(typed<std::uint16_t>(rounded_, "rounded is no contiguous uint16 vector"), "rounded");
        group_.group = attribute(batch, &Names::group);
        if (!group_.group.is_none()) pass.exchange = {Group::gather, Group::sum, Group::lend, &group_};
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    /// Trains, and adds to the gradients or overwrites them; announces them where they are final then.
    void trains(OptionalFloats& gradients, const py::object& batch, bool add, bool final) {
        pass.training = true;
        pass.add = add;
        if (gradients) pass.gradients = out_vector(*gradients, "gradients");
        if (batch.is_none() || !final) return;
        ready_ = attribute(batch, &Names::ready);
        if (ready_.is_none()) return;
        if (!PyCallable_Check(ready_.ptr())) throw py::type_error("ready is neither None nor callable");
        pass.ready = {announce, &ready_};
    }

    kernels::Pass pass;

  private:
    py::object index_, rounded_, ready_, sum_;
    Group group_;
};

kernels::Targets targets_of(const py::object& targets, Loss loss) {
    if (loss == Loss::softmax)
        return {{},
                vector(typed<std::int64_t>(targets,
                                           "targets of loss 'softmax' are labels; expected a contiguous int64 "
                                           "vector"),
                       "targets")};
    return {matrix(typed<float>(targets, "targets are no contiguous float32 matrix"), "targets"), {}};
}

}  // namespace

void register_network(py::module_& m) {
    py::class_<Network>(m, "Network")
        .def(py::init([](const std::vector<py::dict>& layers, const std::string& dtype) {
                 std::vector<std::unique_ptr<kernels::Layer>> chain;
                 for (const py::dict& layer : layers) chain.push_back(compiled(layer));
                 return std::make_unique<Network>(std::move(chain), element_named(dtype));
             }),
             "layers"_a, "dtype"_a = "float32")
        .def(
            "forward",
            [](Network& self, const Floats& parameters, const OptionalFloats& buffers, const py::object& batch,
               const Floats& rows, Floats& out, std::int64_t first, std::int64_t last, std::int64_t slot,
               std::optional<bool> training, bool sampling) {
                Call call(parameters, buffers, batch);
                call.pass.training = training.value_or(slot >= 0);
                call.pass.sampling = sampling;
                const auto x = matrix(rows, "rows");
                const auto y = out_matrix(out, "out");
                const py::gil_scoped_release no_gil;  // below, only the hooks touch Python, with the GIL
                self.forward(call.pass, x, y, first, last, slot);
            },
            "parameters"_a.noconvert(), "buffers"_a.noconvert().none(true), "batch"_a, "rows"_a.noconvert(),
            "out"_a.noconvert(), "first"_a = 0, "last"_a = -1, "slot"_a = -1, "training"_a.none(true) = py::none(),
            "sampling"_a = false)
        .def(
            "gradient",
            [](Network& self, const Floats& parameters, OptionalFloats gradients, const OptionalFloats& buffers,
               const py::object& batch, const Floats& rows, const py::object& targets, const std::string& loss,
               std::int64_t first, bool add, bool final, OptionalFloats below) {
                Call call(parameters, buffers, batch);
                call.trains(gradients, batch, add, final);
                const auto x = matrix(rows, "rows");
                const Loss l = kernels::loss_named(loss);
                const auto t = targets_of(targets, l);
                const auto under = below ? out_matrix(*below, "below") : kernels::MatrixView<float>{};
                const py::gil_scoped_release no_gil;  // below, only the hooks touch Python, with the GIL
                return self.gradient(call.pass, x, t, l, first, under);
            },
            "parameters"_a.noconvert(), "gradients"_a.noconvert(), "buffers"_a.noconvert().none(true), "batch"_a,
            "rows"_a.noconvert(), "targets"_a, "loss"_a, "first"_a = 0, "add"_a = false, "final"_a = true,
            "below"_a.noconvert().none(true) = py::none())
        .def(
            "evaluate",
            [](Network& self, const Floats& parameters, const OptionalFloats& buffers, const py::object& batch,
               const Floats& rows, const py::object& targets, const std::string& loss, bool sampling) {
                Call call(parameters, buffers, batch);
                call.pass.sampling = sampling;
                const auto x = matrix(rows, "rows");
                const Loss l = kernels::loss_named(loss);
                const auto t = targets_of(targets, l);
                const auto sums = [&] {
                    const py::gil_scoped_release no_gil;  // inside, only the hooks touch Python, with the GIL
                    return self.evaluate(call.pass, x, t, l);
                }();
                py::dict scores = l == Loss::softmax
                                      ? py::dict("loss"_a = sums.loss, "accuracy"_a = sums.accuracy)
                                      : py::dict("loss"_a = sums.loss, "squared_error"_a = sums.squared_error);
                if (self.has_divergence()) scores["kl"] = sums.kl;
                return scores;
            },
            "parameters"_a.noconvert(), "buffers"_a.noconvert().none(true), "batch"_a, "rows"_a.noconvert(),
            "targets"_a, "loss"_a, "sampling"_a = false)
        .def(
            "backward",
            [](Network& self, const Floats& parameters, OptionalFloats gradients, const OptionalFloats& buffers,
               const py::object& batch, const Floats& rows, const Floats& deltas, OptionalFloats below,
               std::int64_t slot, std::int64_t first, bool add, bool final) {
                Call call(parameters, buffers, batch);
                call.trains(gradients, batch, add, final);
                const auto x = matrix(rows, "rows"), d = matrix(deltas, "deltas");
                const auto b = below ? out_matrix(*below, "below") : kernels::MatrixView<float>{};
                const py::gil_scoped_release no_gil;  // below, only the hooks touch Python, with the GIL
                self.backward(call.pass, x, d, b, slot, first);
            },
            "parameters"_a.noconvert(), "gradients"_a.noconvert().none(true), "buffers"_a.noconvert().none(true),
            "batch"_a, "rows"_a.noconvert(), "deltas"_a.noconvert(), "below"_a.noconvert().none(true) = py::none(),
            "slot"_a = 0, "first"_a = -1, "add"_a = false, "final"_a = true)
        .def(
            "tangent",
            [](Network& self, const Floats& parameters, OptionalFloats gradients, const OptionalFloats& buffers,
               const py::object& batch, const Floats& rows, const Floats& directions, std::int64_t slot, bool add,
               bool final) {
                Call call(parameters, buffers, batch);
                call.trains(gradients, batch, add, final);
                const auto x = matrix(rows, "rows"), u = matrix(directions, "directions");
                const py::gil_scoped_release no_gil;  // below, only the hooks touch Python, with the GIL
                self.tangent(call.pass, x, u, slot);
            },
            "parameters"_a.noconvert(), "gradients"_a.noconvert(), "buffers"_a.noconvert().none(true), "batch"_a,
            "rows"_a.noconvert(), "directions"_a.noconvert(), "slot"_a = 0, "add"_a = false, "final"_a = true)
        .def_property_readonly("flops", &Network::flops);

    // ---- plain loops in double

    using Doubles = Array<double>;
    m.def(
        "reference_dense_forward",
        [](const Doubles& rows, const Doubles& weights, const std::optional<Doubles>& bias,
           const std::string& activation, Doubles& out) {
            kernels::reference::dense_forward<double>(matrix(rows, "rows"), matrix(weights, "weights"),
                                                      bias ? vector(*bias, "bias") : std::span<const double>{},
                                                      kernels::activation_named(activation), out_matrix(out, "out"));
        },
        "rows"_a.noconvert(), "weights"_a.noconvert(), "bias"_a.noconvert().none(true), "activation"_a,
        "out"_a.noconvert());
    m.def(
        "reference_dense_backward",
        [](const Doubles& rows, const Doubles& weights, const Doubles& outputs, const std::string& activation,
           Doubles& deltas, Doubles& weight_gradients, std::optional<Doubles> bias_gradients,
           std::optional<Doubles> row_gradients) {
            kernels::reference::dense_backward<double>(
                matrix(rows, "rows"), matrix(weights, "weights"), matrix(outputs, "outputs"),
                kernels::activation_named(activation), out_matrix(deltas, "deltas"),
                out_matrix(weight_gradients, "weight_gradients"),
                bias_gradients ? out_vector(*bias_gradients, "bias_gradients") : std::span<double>{},
                row_gradients ? out_matrix(*row_gradients, "row_gradients") : kernels::MatrixView<double>{});
        },
        "rows"_a.noconvert(), "weights"_a.noconvert(), "outputs"_a.noconvert(), "activation"_a, "deltas"_a.noconvert(),
        "weight_gradients"_a.noconvert(), "bias_gradients"_a.noconvert().none(true),
        "row_gradients"_a.noconvert().none(true) = py::none());
    m.def(
        "reference_network_gradient",
        [](const std::vector<py::dict>& layers, const Doubles& parameters, Doubles& gradients, const Doubles& rows,
           const Doubles& targets, const std::string& loss) {
            std::vector<kernels::DenseLayer> chain;
            for (const py::dict& layer : layers) chain.push_back(dense_layer(layer));
            return kernels::reference::network_gradient<double>(
                chain, vector(parameters, "parameters"), out_vector(gradients, "gradients"), matrix(rows, "rows"),
                matrix(targets, "targets"), kernels::loss_named(loss));
        },
        "layers"_a, "parameters"_a.noconvert(), "gradients"_a.noconvert(), "rows"_a.noconvert(),
        "targets"_a.noconvert(), "loss"_a);
}

}  // namespace pyddl::bindings
