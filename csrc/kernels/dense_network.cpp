#include "kernels/dense_network.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/check.hpp"
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

}  // namespace

DenseNetwork::DenseNetwork(std::vector<DenseLayer> layers, Element element)
    : layers_(std::move(layers)), element_(element), outputs_(layers_.size()) {
    if (element_ == Element::bfloat16)
        throw std::invalid_argument("dtype is 'bfloat16'; chains of layers take float32 only");
    if (layers_.empty()) throw std::invalid_argument("layers is empty; expected at least one layer");
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        const DenseLayer& layer = layers_[l];
        const std::string name = "layers[" + std::to_string(l) + "]";
        if (layer.inputs < 1 || layer.outputs < 1)
            throw std::invalid_argument(name + " has " + std::to_string(layer.inputs) + " inputs and " +
                                        std::to_string(layer.outputs) + " outputs; expected at least 1 each");
        if (l > 0 && layer.inputs != layers_[l - 1].outputs)
            throw std::invalid_argument(name + " has " + std::to_string(layer.inputs) + " inputs; expected " +
                                        std::to_string(layers_[l - 1].outputs) +
                                        ", the outputs of the layer before");
        if (layer.weights < 0 || layer.bias < -1)
            throw std::invalid_argument(name + " has offsets " + std::to_string(layer.weights) + " and " +
                                        std::to_string(layer.bias) +
                                        "; expected 0 or more (bias: or -1 for none)");
        widest_ = std::max(widest_, layer.outputs);
        end_ = std::max({end_, layer.weights + layer.outputs * layer.inputs,
                         layer.bias < 0 ? 0 : layer.bias + layer.outputs});
    }
}

std::int64_t DenseNetwork::flops() const {
    std::int64_t products = 0;
    for (std::size_t l = 0; l < layers_.size(); ++l)
        products += (l == 0 ? 2 : 3) * layers_[l].inputs * layers_[l].outputs;
    return 2 * products;
}

void DenseNetwork::check(std::span<const float> parameters, MatrixView<const float> rows,
                         MatrixView<const float> targets, Loss loss) const {
    if (static_cast<std::int64_t>(parameters.size()) < end_)
        throw std::invalid_argument("parameters has " + std::to_string(parameters.size()) +
                                    " elements; expected at least " + std::to_string(end_));
    check_shape("rows", rows, rows.rows, layers_.front().inputs);
    check_shape("targets", targets, rows.rows, layers_.back().outputs);
    if (loss == Loss::cross_entropy && layers_.back().activation != Activation::linear)
        throw std::invalid_argument(
            "loss is 'bce', which takes logits, but the last layer's activation is '" +
            std::string(activation_names[static_cast<int>(layers_.back().activation)]) +
            "'; expected linear");
}

DenseNetwork::Shape& DenseNetwork::shape_for(std::int64_t rows) {
    const int n = threads();
    const auto found = std::find_if(shapes_.begin(), shapes_.end(),
                                    [&](const Shape& s) { return s.rows == rows && s.threads == n; });
    if (found != shapes_.end()) {
        shapes_.splice(shapes_.begin(), shapes_, found);
    } else {
        if (shapes_.size() >= most_shapes) shapes_.pop_back();
        shapes_.push_front({rows, n, std::vector<LayerProducts>(layers_.size())});
    }
    return shapes_.front();
}

void DenseNetwork::run(std::optional<Product>& product, const ProductShape& shape, const void* a,
                       const void* b, const float* bias, void* c) {
    if (!product) product.emplace(shape);
    (*product)(a, b, bias, c, product_scratch_.reserve(product->scratch_bytes()));
}

float* DenseNetwork::activations(std::size_t layer, std::int64_t rows) {
    return static_cast<float*>(outputs_[layer].reserve(rows * layers_[layer].outputs * sizeof(float)));
}

void DenseNetwork::layer_forward(Shape& shape, std::size_t l, const float* parameters, const float* rows,
                                 float* out) {
    const DenseLayer& layer = layers_[l];
    const bool bias = layer.bias >= 0;
    run(shape.layers[l].forward,
        {.m = shape.rows,
         .k = layer.inputs,
         .n = layer.outputs,
         .b_transposed = true,
         .bias = bias,
         .activation = layer.activation},
        rows, parameters + layer.weights, bias ? parameters + layer.bias : nullptr, out);
    best<ActivationTable>().activate(layer.activation, out, shape.rows * layer.outputs);
}

void DenseNetwork::forward(std::span<const float> parameters, MatrixView<const float> rows,
                           MatrixView<float> out, std::int64_t first, std::int64_t last) {
    const auto count = static_cast<std::int64_t>(layers_.size());
    if (last == -1) last = count;
    if (first < 0 || last > count || first >= last)
        throw std::invalid_argument("first and last are " + std::to_string(first) + " and " +
                                    std::to_string(last) +
                                    "; expected 0 <= first < last <= " + std::to_string(count));
    if (static_cast<std::int64_t>(parameters.size()) < end_)
        throw std::invalid_argument("parameters has " + std::to_string(parameters.size()) +
                                    " elements; expected at least " + std::to_string(end_));
    check_shape("rows", rows, rows.rows, layers_[first].inputs);
    check_shape("out", out, rows.rows, layers_[last - 1].outputs);
    if (rows.rows == 0) return;

    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    Shape& shape = shape_for(rows.rows);
    const float* input = rows.data;
    for (std::int64_t l = first; l < last; ++l) {
        float* output = l == last - 1 ? out.data : activations(l, rows.rows);
        layer_forward(shape, l, parameters.data(), input, output);
        input = output;
    }
}

double DenseNetwork::gradient(std::span<const float> parameters, std::span<float> gradients,
                              MatrixView<const float> rows, MatrixView<const float> targets, Loss loss,
                              const Ready& ready) {
    check(parameters, rows, targets, loss);
    if (gradients.size() != parameters.size())
        throw std::invalid_argument("gradients has " + std::to_string(gradients.size()) +
                                    " elements; expected " + std::to_string(parameters.size()) +
                                    ", as parameters has");
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const std::int64_t B = rows.rows;
    if (B == 0) {
        for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
            std::fill_n(gradients.data() + layer->weights, layer->outputs * layer->inputs, 0.0f);
            if (layer->bias >= 0) std::fill_n(gradients.data() + layer->bias, layer->outputs, 0.0f);
            announce(ready, *layer);
        }
        return 0.0;
    }

    Shape& shape = shape_for(B);
    const std::size_t last = layers_.size() - 1;
    const float* input = rows.data;
    for (std::size_t l = 0; l <= last; ++l) {
        layer_forward(shape, l, parameters.data(), input, activations(l, B));
        input = activations(l, B);
    }

    const auto bias_gradient = [&](std::size_t l) {
        return layers_[l].bias < 0 ? nullptr : gradients.data() + layers_[l].bias;
    };
    // The last layer's outputs are needed no more: its deltas take their place.
    float* delta = activations(last, B);
    const double total = best<LossTable>().gradient(loss, layers_[last].activation, delta, targets.data,
                                                    delta, B, layers_[last].outputs, bias_gradient(last));
    for (std::size_t l = last;; --l) {
        const DenseLayer& layer = layers_[l];
        const float* layer_input = l == 0 ? rows.data : activations(l - 1, B);
        run(shape.layers[l].weight_gradient,
            {.m = layer.outputs, .k = B, .n = layer.inputs, .a_transposed = true}, delta, layer_input,
            nullptr, gradients.data() + layer.weights);
        announce(ready, layer);
        if (l == 0) break;

        float* below = static_cast<float*>(deltas_[l % 2].reserve(B * widest_ * sizeof(float)));
        run(shape.layers[l].input_gradient, {.m = B, .k = layer.outputs, .n = layer.inputs}, delta,
            parameters.data() + layer.weights, nullptr, below);
        best<ActivationTable>().gradient(layers_[l - 1].activation, layer_input, below, B, layer.inputs,
                                         bias_gradient(l - 1));
        delta = below;
    }
    return total;
}

LossSums DenseNetwork::evaluate(std::span<const float> parameters, MatrixView<const float> rows,
                                MatrixView<const float> targets, Loss loss) {
    check(parameters, rows, targets, loss);
    if (rows.rows == 0) return {};
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    Shape& shape = shape_for(rows.rows);
    const float* input = rows.data;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        layer_forward(shape, l, parameters.data(), input, activations(l, rows.rows));
        input = activations(l, rows.rows);
    }
    return best<LossTable>().evaluate(loss, input, targets.data, rows.rows, layers_.back().outputs);
}

}  // namespace pyddl::kernels
