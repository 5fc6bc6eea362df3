#include "kernels/layers/dense.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/few_rows.hpp"
#include "kernels/simd.hpp"
#include "kernels/vectors.hpp"

namespace pyddl::kernels {
namespace {

/// Each made when first used; [1] gives float32 where the pass is in bfloat16.
struct DenseProducts final : Primitives {
    std::optional<Product> forward[2], input_gradient[2], tangent[2];
    std::optional<Product> weight_gradient, added_weight_gradient;
};

DenseProducts& products_of(const Memory& memory) { return static_cast<DenseProducts&>(memory.primitives); }

std::optional<Product>& for_element(std::optional<Product> (&products)[2], View out) {
    return products[out.element == Element::float32];
}

enum Room { float_block, rounded_block, moved_block };  // in Memory::kept

void check(const DenseLayer& layer) {
    if (layer.inputs < 1 || layer.outputs < 1)
        throw std::invalid_argument("a dense layer has " + std::to_string(layer.inputs) + " inputs and " +
                                    std::to_string(layer.outputs) + " outputs; expected at least 1 each");
    if (layer.weights < 0 || layer.bias < -1)
        throw std::invalid_argument("a dense layer has offsets " + std::to_string(layer.weights) + " and " +
                                    std::to_string(layer.bias) + "; expected 0 or more (bias: or -1 for none)");
    const auto& cuts = layer.cuts;
    if (cuts.empty()) return;
    if (layer.transposed || layer.shared)
        throw std::invalid_argument("a dense layer that shares its weights is cut; expected a whole one");
    const auto parts = static_cast<std::int64_t>(cuts.size()) - 1;
    if (cuts.front() != 0 || cuts.back() != layer.outputs || layer.part < 0 || layer.part >= parts ||
        std::adjacent_find(cuts.begin(), cuts.end(), std::greater_equal<>()) != cuts.end())
        throw std::invalid_argument("a dense layer of " + std::to_string(layer.outputs) + " outputs is part " +
                                    std::to_string(layer.part) + " of " + std::to_string(parts) +
                                    "; expected cuts that grow from 0 to its outputs, and a part among them");
}

/// to (B, width) := columns [first, first + width) of from.
void copy_columns(View from, std::int64_t first, std::int64_t width, float* to) {
    const auto* row = from.as<const float>() + first;
    for (std::int64_t b = 0; b < from.rows; ++b, row += from.columns, to += width) std::copy_n(row, width, to);
}

void convert(const float* from, View to) {
    if (to.element == Element::bfloat16)
        best<ConversionTable>().to_bfloat16(from, to.as<Bfloat16>(), to.size());
    else if (from != to.data)
        std::copy_n(from, to.size(), to.as<float>());
}

void activate(Activation activation, View values) {
    if (values.element == Element::float32)
        best<ActivationTable<float>>().activate(activation, values.as<float>(), values.size());
    else
        best<ActivationTable<Bfloat16>>().activate(activation, values.as<Bfloat16>(), values.size());
}

/// deltas *= slope(outputs), and the column sums of that. `outputs` is of the element of `deltas`.
void multiply_by_slope(Activation activation, const void* outputs, View deltas, float* sums) {
    if (deltas.element == Element::float32)
        best<ActivationTable<float>>().gradient(activation, static_cast<const float*>(outputs), deltas.as<float>(),
                                                deltas.rows, deltas.columns, sums);
    else
        best<ActivationTable<Bfloat16>>().gradient(activation, static_cast<const Bfloat16*>(outputs),
                                                   deltas.as<Bfloat16>(), deltas.rows, deltas.columns, sums);
}

template <class T>
double loss_gradient(Loss loss, Activation activation, View outputs, const Targets& targets, T* deltas, float* sums) {
    const auto& table = best<LossTable<T>>();
    if (loss == Loss::softmax)
        return table.softmax_gradient(outputs.as<const float>(), targets.labels.data(), deltas, outputs.rows,
                                      outputs.columns, sums);
    return table.gradient(loss, activation, outputs.as<const float>(), targets.values.data, deltas, outputs.rows,
                          outputs.columns, sums);
}

}  // namespace

Layer::Sizes Dense::sizes_of(const DenseLayer& layer) {
    check(layer);
    const std::int64_t columns =
        layer.cuts.empty() ? layer.outputs : layer.cuts[layer.part + 1] - layer.cuts[layer.part];
    return {
        .inputs = layer.inputs,
        .outputs = layer.outputs,
        .parameters_end = std::max(layer.weights + columns * layer.inputs, layer.bias < 0 ? 0 : layer.bias + columns),
        .flops = 2 * layer.inputs * columns,
        .cuts = layer.cuts,
        .part = layer.part};
}

Dense::Dense(DenseLayer layer) : Layer(sizes_of(layer)), layer_(std::move(layer)) {}

std::unique_ptr<Primitives> Dense::primitives() const { return std::make_unique<DenseProducts>(); }

bool Dense::piecewise_linear() const {
    const Activation a = layer_.activation;
    return !layer_.transposed && (a == Activation::linear || a == Activation::relu || a == Activation::leaky_relu);
}

/// As products of that element read them: given, or rounded here, once per call.
const void* Dense::weights(const Pass& pass, Element element) {
    const float* exact = pass.parameters.data() + layer_.weights;
    if (element == Element::float32) return exact;
    if (!pass.rounded.empty()) return pass.rounded.data() + layer_.weights;
    const std::int64_t size = columns() * inputs;
    auto* to = static_cast<Bfloat16*>(rounded_.reserve(size * sizeof(Bfloat16)));
    if (rounded_call_ != pass.call) best<ConversionTable>().to_bfloat16(exact, to, size);
    rounded_call_ = pass.call;
    return to;
}

const float* Dense::bias(const Pass& pass) const {
    return layer_.bias < 0 ? nullptr : pass.parameters.data() + layer_.bias;
}

/// Where to write the gradients of the bias, or null. Where they are to be added: followed by `add_bias_gradients`.
float* Dense::bias_gradients(const Pass& pass) {
    if (layer_.bias < 0 || pass.gradients.empty()) return nullptr;
    return pass.add ? static_cast<float*>(bias_gradients_.reserve(columns() * sizeof(float)))
                    : pass.gradients.data() + layer_.bias;
}

void Dense::add_bias_gradients(const Pass& pass) {
    if (layer_.bias < 0 || pass.gradients.empty() || !pass.add) return;
    best<VectorTable>().add(pass.gradients.data() + layer_.bias, static_cast<const float*>(bias_gradients_.data()),
                            columns());
}

void Dense::multiply(const Memory& memory, std::optional<Product>& product, View in, const void* weights,
                     const float* bias, Activation activation, View out) const {
    if (in.element == Element::float32 && !layer_.transposed && suits_few_rows(in.rows, inputs)) {
        best<FewRowsTable>().forward(in.as<const float>(), static_cast<const float*>(weights), bias, out.as<float>(),
                                     in.rows, inputs, out.columns);
        return activate(activation, out);
    }
    memory.run(product,
               {.m = in.rows,
                .k = inputs,
                .n = out.columns,
                .b_transposed = !layer_.transposed,
                .bias = bias != nullptr,
                .activation = activation,
                .in = in.element,
                .out = out.element},
               in.data, weights, bias, out.data);
    if (!fuses_with_product(activation)) activate(activation, out);
}

/// This part's columns of the outputs, where it gathers them.
View Dense::block(const Memory& memory, std::int64_t rows) const {
    return {memory.kept[float_block].reserve(rows * columns() * sizeof(float)), rows, columns()};
}

/// out (B, O) := the blocks of all parts.
void Dense::gather(const Pass& pass, View block, View out) {
    View all = out;
    if (out.element != Element::float32) all = {columns_.reserve(out.size() * sizeof(float)), out.rows, out.columns};
    pass.exchange.gather(pass.exchange.context, block, cuts, all);
    if (all.data != out.data) convert(all.as<const float>(), out);
}

void Dense::forward(const Pass& pass, const Memory& memory, View in, View out) {
    if (in.rows == 0) return;
    const bool gathers = out.columns != columns();
    const View result = gathers ? block(memory, in.rows) : out;
    multiply(memory, for_element(products_of(memory).forward, result), in, weights(pass, in.element), bias(pass),
             layer_.activation, result);
    if (!gathers) return;
    if (in.element == Element::bfloat16)  // as `slope` reads it
        convert(result.as<const float>(), {memory.kept[rounded_block].reserve(result.size() * sizeof(Bfloat16)),
                                           result.rows, result.columns, Element::bfloat16});
    gather(pass, result, out);
}

double Dense::loss(const Pass& pass, const Memory& memory, Loss loss, View out, const Targets& targets, View delta) {
    if (out.rows == 0) return 0.0;
    if (out.columns != delta.columns) {  // of gathered logits each part needs its columns
        const double total = loss_gradient<float>(loss, layer_.activation, out, targets, out.as<float>(), nullptr);
        slope(pass, memory, {}, out, delta);
        return total;
    }
    float* const sums = bias_gradients(pass);
    const double total = delta.element == Element::float32
                             ? loss_gradient(loss, layer_.activation, out, targets, delta.as<float>(), sums)
                             : loss_gradient(loss, layer_.activation, out, targets, delta.as<Bfloat16>(), sums);
    add_bias_gradients(pass);
    return total;
}

void Dense::slope(const Pass& pass, const Memory& memory, View out, View above, View delta) {
    if (delta.rows == 0) return;
    if (above.partial) {
        View sums = delta;
        if (delta.element != Element::float32)
            sums = {columns_.reserve(delta.size() * sizeof(float)), delta.rows, delta.columns};
        pass.exchange.sum(pass.exchange.context, above, cuts, sums);
        convert(sums.as<const float>(), delta);
    } else if (above.columns != delta.columns) {
        auto* mine = static_cast<float*>(columns_.reserve(delta.size() * sizeof(float)));
        copy_columns(above, first_column(), columns(), mine);
        convert(mine, delta);
    } else if (above.data != delta.data) {
        convert(above.as<const float>(), delta);
    }
    const Room block = delta.element == Element::float32 ? float_block : rounded_block;
    const void* outputs = is_cut() ? memory.kept[block].data() : out ? out.data : delta.data;
    multiply_by_slope(layer_.activation, outputs, delta, bias_gradients(pass));
    add_bias_gradients(pass);
}

void Dense::weight_gradients(const Pass& pass, const Memory& memory, View in, View delta) const {
    DenseProducts& products = products_of(memory);
    const bool add = pass.add || layer_.shared, swapped = layer_.transposed;
    memory.run(add ? products.added_weight_gradient : products.weight_gradient,
               {.m = swapped ? inputs : columns(),
                .k = in.rows,
                .n = swapped ? columns() : inputs,
                .a_transposed = true,
                .in = in.element,
                .add = add},
               swapped ? in.data : delta.data, swapped ? delta.data : in.data, nullptr,
               pass.gradients.data() + layer_.weights);
}

void Dense::backward(const Pass& pass, const Memory& memory, View in, View delta, View below) {
    if (!pass.gradients.empty()) {
        if (in.rows > 0) {
            weight_gradients(pass, memory, in, delta);
        } else if (!pass.add) {
            if (!layer_.shared) std::fill_n(pass.gradients.data() + layer_.weights, columns() * inputs, 0.0f);
            if (layer_.bias >= 0) std::fill_n(pass.gradients.data() + layer_.bias, columns(), 0.0f);
        }
        announce(pass.ready);
    }
    if (!below || in.rows == 0) return;
    memory.run(for_element(products_of(memory).input_gradient, below),
               {.m = in.rows,
                .k = columns(),
                .n = inputs,
                .b_transposed = layer_.transposed,
                .in = delta.element,
                .out = below.element},
               delta.data, weights(pass, delta.element), nullptr, below.data);
}

void Dense::tangent(const Pass& pass, const Memory& memory, View out, View delta, View direction, View moved) {
    if (direction.rows > 0) {
        weight_gradients(pass, memory, direction, delta);
    } else if (!pass.add) {
        std::fill_n(pass.gradients.data() + layer_.weights, columns() * inputs, 0.0f);
    }
    if (layer_.bias >= 0 && !pass.add) std::fill_n(pass.gradients.data() + layer_.bias, columns(), 0.0f);
    announce(pass.ready);
    if (!moved || direction.rows == 0) return;
    View result = moved;
    if (is_cut())
        result = {memory.kept[moved_block].reserve(direction.rows * columns() * sizeof(float)), moved.rows, columns()};
    multiply(memory, for_element(products_of(memory).tangent, result), direction, weights(pass, direction.element),
             nullptr, Activation::linear, result);
    const void* outputs = is_cut() ? memory.kept[float_block].data() : out ? out.data : result.data;
    multiply_by_slope(layer_.activation, outputs, result, nullptr);
    if (is_cut()) gather(pass, result, moved);
}

void Dense::announce(const Ready& ready) const {
    if (layer_.transposed) {  // the weights are not final before the layer that has them adds its part
        if (layer_.bias >= 0) kernels::announce(ready, layer_.bias, layer_.bias + columns(), -1, -1);
        return;
    }
    kernels::announce(ready, layer_.weights, layer_.weights + columns() * inputs, layer_.bias, layer_.bias + columns());
}

}  // namespace pyddl::kernels
