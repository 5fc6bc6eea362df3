#include "kernels/dense_network.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "kernels/check.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

constexpr std::size_t most_shapes = 64;
constexpr std::int64_t alignment = 16;  // floats; slices of a layout start on multiples of it

/// Announces a layer's weights and bias: as one range where the bias follows the weights, else as two.
void announce(const Ready& ready, const DenseLayer& layer) {
    const std::int64_t end = layer.weights + layer.outputs * layer.inputs;
    if (layer.bias < 0) {
        ready(layer.weights, end);
    } else if (layer.bias >= end && layer.bias < end + alignment) {
        ready(layer.weights, layer.bias + layer.outputs);
    } else {
        ready(layer.weights, end);
        ready(layer.bias, layer.bias + layer.outputs);
    }
}

/// The array itself, or its copy as T that a forward pass left in `scratch`.
template <class T>
const T* as(const float* array, const Scratch& scratch) {
    if constexpr (std::is_same_v<T, float>)
        return array;
    else
        return static_cast<const T*>(scratch.data());
}

}  // namespace

DenseNetwork::DenseNetwork(std::vector<DenseLayer> layers, Element element)
    : layers_(std::move(layers)), element_(element), weights_(layers_.size()), outputs_(layers_.size()) {
    if (element_ == Element::bfloat16 && !has_bfloat16())
        throw std::invalid_argument(
            "dtype is 'bfloat16', but this processor has neither AVX512_BF16 nor AMX; use float32");
    if (layers_.empty()) throw std::invalid_argument("layers is empty; expected at least one layer");
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        const DenseLayer& layer = layers_[l];
        const std::string name = "layers[" + std::to_string(l) + "]";
        if (layer.inputs < 1 || layer.outputs < 1)
            throw std::invalid_argument(name + " has " + std::to_string(layer.inputs) + " inputs and " +
                                        std::to_string(layer.outputs) + " outputs; expected at least 1 each");
        if (l > 0 && layer.inputs != layers_[l - 1].outputs)
            throw std::invalid_argument(name + " has " + std::to_string(layer.inputs) + " inputs; expected " +
                                        std::to_string(layers_[l - 1].outputs) + ", the outputs of the layer before");
        if (layer.weights < 0 || layer.bias < -1)
            throw std::invalid_argument(name + " has offsets " + std::to_string(layer.weights) + " and " +
                                        std::to_string(layer.bias) + "; expected 0 or more (bias: or -1 for none)");
        widest_ = std::max(widest_, layer.outputs);
        end_ = std::max(
            {end_, layer.weights + layer.outputs * layer.inputs, layer.bias < 0 ? 0 : layer.bias + layer.outputs});
    }
}

std::int64_t DenseNetwork::flops() const {
    std::int64_t products = 0;
    for (std::size_t l = 0; l < layers_.size(); ++l)
        products += (l == 0 ? 2 : 3) * layers_[l].inputs * layers_[l].outputs;
    return 2 * products;
}

void DenseNetwork::check_parameters(std::span<const float> parameters) const {
    if (static_cast<std::int64_t>(parameters.size()) < end_)
        throw std::invalid_argument("parameters has " + std::to_string(parameters.size()) +
                                    " elements; expected at least " + std::to_string(end_));
}

void DenseNetwork::check(std::span<const float> parameters, MatrixView<const float> rows,
                         MatrixView<const float> targets, Loss loss) const {
    check_parameters(parameters);
    check_shape("rows", rows, rows.rows, layers_.front().inputs);
    check_shape("targets", targets, rows.rows, layers_.back().outputs);
    if (loss == Loss::cross_entropy && layers_.back().activation != Activation::linear)
        throw std::invalid_argument("loss is 'bce', which takes logits, but the last layer's activation is '" +
                                    std::string(activation_names[static_cast<int>(layers_.back().activation)]) +
                                    "'; expected linear");
}

DenseNetwork::Shape& DenseNetwork::shape_for(std::int64_t rows) {
    const int n = threads();
    const auto found =
        std::find_if(shapes_.begin(), shapes_.end(), [&](const Shape& s) { return s.rows == rows && s.threads == n; });
    if (found != shapes_.end()) {
        shapes_.splice(shapes_.begin(), shapes_, found);
    } else {
        if (shapes_.size() >= most_shapes) shapes_.pop_back();
        shapes_.push_front({rows, n, std::vector<LayerProducts>(layers_.size())});
    }
    return shapes_.front();
}

void DenseNetwork::run(std::optional<Product>& product, const ProductShape& shape, const void* a, const void* b,
                       const float* bias, void* c) {
    if (!product) product.emplace(shape);
    (*product)(a, b, bias, c, product_scratch_.reserve(product->scratch_bytes()));
}

Element DenseNetwork::element_for(std::int64_t rows) const { return rows <= few_rows ? Element::float32 : element_; }

template <class T>
const T* DenseNetwork::converted(const float* from, std::int64_t size, Scratch& scratch) {
    if constexpr (std::is_same_v<T, float>) {
        return from;
    } else {
        T* to = static_cast<T*>(scratch.reserve(size * sizeof(T)));
        best<ConversionTable>().to_bfloat16(from, to, size);
        return to;
    }
}

template <class T>
T* DenseNetwork::activations(std::size_t layer, std::int64_t rows) {
    return static_cast<T*>(outputs_[layer].reserve(rows * layers_[layer].outputs * sizeof(T)));
}

/// The layer's weights as T: given, or rounded here, once per call.
template <class T>
const T* DenseNetwork::weights_of(std::size_t l, const float* parameters, const Bfloat16* rounded) {
    const DenseLayer& layer = layers_[l];
    if constexpr (std::is_same_v<T, Bfloat16>)
        if (rounded != nullptr) return rounded + layer.weights;
    return converted<T>(parameters + layer.weights, layer.outputs * layer.inputs, weights_[l]);
}

/// `out` holds T or float.
template <class T>
void DenseNetwork::layer_forward(Shape& shape, std::size_t l, const float* parameters, const T* weights, const T* rows,
                                 void* out, Element out_element) {
    const DenseLayer& layer = layers_[l];
    const float* bias = layer.bias < 0 ? nullptr : parameters + layer.bias;
    const std::int64_t size = shape.rows * layer.outputs;
    if constexpr (std::is_same_v<T, float>) {
        if (suits_few_rows(shape.rows, layer.inputs)) {
            auto* y = static_cast<float*>(out);
            best<FewRowsTable>().forward(rows, weights, bias, y, shape.rows, layer.inputs, layer.outputs);
            return best<ActivationTable<float>>().activate(layer.activation, y, size);
        }
    }
    LayerProducts& products = shape.layers[l];
    run(out_element == Element::float32 ? products.forward_to_float : products.forward,
        {.m = shape.rows,
         .k = layer.inputs,
         .n = layer.outputs,
         .b_transposed = true,
         .bias = bias != nullptr,
         .activation = layer.activation,
         .in = element_of<T>,
         .out = out_element},
        rows, weights, bias, out);
    if (fuses_with_product(layer.activation)) return;
    if (out_element == Element::float32)
        best<ActivationTable<float>>().activate(layer.activation, static_cast<float*>(out), size);
    else
        best<ActivationTable<T>>().activate(layer.activation, static_cast<T*>(out), size);
}

/// Runs layers [first, last - 1), keeping their outputs; returns the inputs of layer last - 1.
template <class T>
const T* DenseNetwork::hidden_forward(Shape& shape, const float* parameters, const Bfloat16* rounded, const float* rows,
                                      std::size_t first, std::size_t last) {
    const T* input = converted<T>(rows, shape.rows * layers_[first].inputs, rows_);
    for (std::size_t l = first; l + 1 < last; ++l) {
        T* output = activations<T>(l, shape.rows);
        layer_forward<T>(shape, l, parameters, weights_of<T>(l, parameters, rounded), input, output, element_of<T>);
        input = output;
    }
    return input;
}

template <class T>
void DenseNetwork::forward_as(const float* parameters, MatrixView<const float> rows, float* out, std::size_t first,
                              std::size_t last) {
    Shape& shape = shape_for(rows.rows);
    const T* input = hidden_forward<T>(shape, parameters, nullptr, rows.data, first, last);
    layer_forward<T>(shape, last - 1, parameters, weights_of<T>(last - 1, parameters, nullptr), input, out,
                     Element::float32);
}

template <class T>
double DenseNetwork::gradient_as(const float* parameters, float* gradients, MatrixView<const float> rows,
                                 const float* targets, Loss loss, const Ready& ready, const Bfloat16* rounded) {
    const std::int64_t B = rows.rows;
    const std::size_t count = layers_.size();
    Shape& shape = shape_for(B);
    const auto bias_gradient = [&](std::size_t l) {
        return layers_[l].bias < 0 ? nullptr : gradients + layers_[l].bias;
    };
    // As the forward pass read them, where that was not in float32.
    const auto weights_below = [&](std::size_t l) {
        if constexpr (std::is_same_v<T, Bfloat16>)
            if (rounded != nullptr) return rounded + layers_[l].weights;
        return as<T>(parameters + layers_[l].weights, weights_[l]);
    };
    const auto deltas_of = [&](std::size_t l) {
        return static_cast<T*>(deltas_[l % 2].reserve(B * widest_ * sizeof(T)));
    };

    const T* input = hidden_forward<T>(shape, parameters, rounded, rows.data, 0, count);
    auto* outputs = static_cast<float*>(last_outputs_.reserve(B * layers_.back().outputs * sizeof(float)));
    layer_forward<T>(shape, count - 1, parameters, weights_of<T>(count - 1, parameters, rounded), input, outputs,
                     Element::float32);

    T* delta;
    if constexpr (std::is_same_v<T, float>)
        delta = outputs;  // which are needed no more
    else
        delta = deltas_of(count - 1);
    const double total = best<LossTable<T>>().gradient(loss, layers_.back().activation, outputs, targets, delta, B,
                                                       layers_.back().outputs, bias_gradient(count - 1));
    for (std::size_t l = count; l-- > 0;) {
        const DenseLayer& layer = layers_[l];
        run(shape.layers[l].weight_gradient,
            {.m = layer.outputs, .k = B, .n = layer.inputs, .a_transposed = true, .in = element_of<T>}, delta,
            l > 0 ? activations<T>(l - 1, B) : as<T>(rows.data, rows_), nullptr, gradients + layer.weights);
        announce(ready, layer);
        if (l == 0) break;

        T* below = deltas_of(l - 1);
        run(shape.layers[l].input_gradient,
            {.m = B, .k = layer.outputs, .n = layer.inputs, .in = element_of<T>, .out = element_of<T>}, delta,
            weights_below(l), nullptr, below);
        best<ActivationTable<T>>().gradient(layers_[l - 1].activation, activations<T>(l - 1, B), below, B, layer.inputs,
                                            bias_gradient(l - 1));
        delta = below;
    }
    return total;
}

void DenseNetwork::forward(std::span<const float> parameters, MatrixView<const float> rows, MatrixView<float> out,
                           std::int64_t first, std::int64_t last) {
    const auto count = static_cast<std::int64_t>(layers_.size());
    if (last == -1) last = count;
    if (first < 0 || last > count || first >= last)
        throw std::invalid_argument("first and last are " + std::to_string(first) + " and " + std::to_string(last) +
                                    "; expected 0 <= first < last <= " + std::to_string(count));
    check_parameters(parameters);
    check_shape("rows", rows, rows.rows, layers_[first].inputs);
    check_shape("out", out, rows.rows, layers_[last - 1].outputs);
    if (rows.rows == 0) return;

    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    if (element_for(rows.rows) == Element::float32)
        forward_as<float>(parameters.data(), rows, out.data, first, last);
    else
        forward_as<Bfloat16>(parameters.data(), rows, out.data, first, last);
}

double DenseNetwork::gradient(std::span<const float> parameters, std::span<float> gradients,
                              MatrixView<const float> rows, MatrixView<const float> targets, Loss loss,
                              const Ready& ready, std::span<const Bfloat16> rounded) {
    check(parameters, rows, targets, loss);
    check_size("gradients", gradients, parameters.size());
    if (!rounded.empty()) check_size("rounded", rounded, parameters.size());
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    if (rows.rows == 0) {
        for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
            std::fill_n(gradients.data() + layer->weights, layer->outputs * layer->inputs, 0.0f);
            if (layer->bias >= 0) std::fill_n(gradients.data() + layer->bias, layer->outputs, 0.0f);
            announce(ready, *layer);
        }
        return 0.0;
    }
    return element_for(rows.rows) == Element::float32
               ? gradient_as<float>(parameters.data(), gradients.data(), rows, targets.data, loss, ready, nullptr)
               : gradient_as<Bfloat16>(parameters.data(), gradients.data(), rows, targets.data, loss, ready,
                                       rounded.empty() ? nullptr : rounded.data());
}

LossSums DenseNetwork::evaluate(std::span<const float> parameters, MatrixView<const float> rows,
                                MatrixView<const float> targets, Loss loss) {
    check(parameters, rows, targets, loss);
    if (rows.rows == 0) return {};
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const std::int64_t columns = layers_.back().outputs;
    auto* outputs = static_cast<float*>(last_outputs_.reserve(rows.rows * columns * sizeof(float)));
    if (element_for(rows.rows) == Element::float32)
        forward_as<float>(parameters.data(), rows, outputs, 0, layers_.size());
    else
        forward_as<Bfloat16>(parameters.data(), rows, outputs, 0, layers_.size());
    return best<LossTable<float>>().evaluate(loss, outputs, targets.data, rows.rows, columns);
}

}  // namespace pyddl::kernels
