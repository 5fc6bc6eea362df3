/// Plain loops for dense layers, losses and chains of layers: the oracle of the fast kernels, in float or
/// double. Letters and layouts as in kernels/layers/dense.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/layers/dense.hpp"
#include "kernels/losses.hpp"
#include "kernels/matrix_view.hpp"

namespace pyddl::kernels::reference {

template <class T>
T activate(Activation activation, T x) {
    switch (activation) {
        case Activation::linear:
            return x;
        case Activation::sigmoid:
            return 1 / (1 + std::exp(-x));
        case Activation::relu:
            return x < 0 ? T(0) : x;
        case Activation::leaky_relu:
            return x < 0 ? T(leak) * x : x;
        case Activation::tanh:
            return std::tanh(x);
        case Activation::softplus:
            return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
    }
    return x;
}

/// Slope where the activation's output is y.
template <class T>
T slope(Activation activation, T y) {
    switch (activation) {
        case Activation::linear:
            return 1;
        case Activation::sigmoid:
            return y * (1 - y);
        case Activation::relu:
            return y > 0 ? T(1) : y <= 0 ? T(0) : y;
        case Activation::leaky_relu:
            return y > 0 ? T(1) : y <= 0 ? T(leak) : y;
        case Activation::tanh:
            return 1 - y * y;
        case Activation::softplus:
            return -std::expm1(-y);
    }
    return 1;
}

template <class T>
void dense_forward(MatrixView<const T> rows, MatrixView<const T> weights, std::span<const T> bias,
                   Activation activation, MatrixView<T> out) {
    for (std::int64_t b = 0; b < rows.rows; ++b)
        for (std::int64_t o = 0; o < weights.rows; ++o) {
            T sum = bias.empty() ? T(0) : bias[o];
            for (std::int64_t i = 0; i < rows.columns; ++i) sum += rows.row(b)[i] * weights.row(o)[i];
            out.row(b)[o] = activate(activation, sum);
        }
}

template <class T>
void dense_backward(MatrixView<const T> rows, MatrixView<const T> weights, MatrixView<const T> outputs,
                    Activation activation, MatrixView<T> deltas, MatrixView<T> weight_gradients,
                    std::span<T> bias_gradients, MatrixView<T> row_gradients) {
    std::fill_n(weight_gradients.data, weight_gradients.size(), T(0));
    std::fill(bias_gradients.begin(), bias_gradients.end(), T(0));
    if (row_gradients.data) std::fill_n(row_gradients.data, row_gradients.size(), T(0));
    for (std::int64_t b = 0; b < rows.rows; ++b)
        for (std::int64_t o = 0; o < weights.rows; ++o) {
            const T delta = deltas.row(b)[o] *= slope(activation, outputs.row(b)[o]);
            if (!bias_gradients.empty()) bias_gradients[o] += delta;
            for (std::int64_t i = 0; i < rows.columns; ++i) {
                weight_gradients.row(o)[i] += delta * rows.row(b)[i];
                if (row_gradients.data) row_gradients.row(b)[i] += delta * weights.row(o)[i];
            }
        }
}

struct Term {
    double loss, derivative, squared_error;
};

inline Term term(Loss loss, double y, double t) {
    if (loss == Loss::squared_error) return {(y - t) * (y - t), 2 * (y - t), (y - t) * (y - t)};
    const double mean = 1 / (1 + std::exp(-y));
    return {std::max(y, 0.0) - t * y + std::log1p(std::exp(-std::abs(y))), mean - t, (mean - t) * (mean - t)};
}

/// deltas, unless data == nullptr, := d loss / d outputs.
template <class T>
LossSums loss_sums(Loss loss, MatrixView<const T> outputs, MatrixView<const T> targets, MatrixView<T> deltas) {
    LossSums sums;
    for (std::int64_t i = 0; i < outputs.size(); ++i) {
        const Term v = term(loss, outputs.data[i], targets.data[i]);
        sums.loss += v.loss;
        sums.squared_error += v.squared_error;
        if (deltas.data) deltas.data[i] = static_cast<T>(v.derivative);
    }
    return sums;
}

/// deltas, unless data == nullptr, := d loss / d logits.
template <class T>
LossSums softmax_sums(MatrixView<const T> logits, std::span<const std::int64_t> labels, MatrixView<T> deltas) {
    LossSums sums;
    for (std::int64_t b = 0; b < logits.rows; ++b) {
        const T* z = logits.row(b);
        const T* largest = std::max_element(z, z + logits.columns);
        T total = 0;
        for (std::int64_t n = 0; n < logits.columns; ++n) total += std::exp(z[n] - *largest);
        sums.loss += std::log(total) + *largest - z[labels[b]];
        sums.accuracy += largest - z == labels[b];
        for (std::int64_t n = 0; deltas.data && n < logits.columns; ++n)
            deltas.row(b)[n] = std::exp(z[n] - *largest) / total - (n == labels[b]);
    }
    return sums;
}

/// As Network::gradient.
template <class T>
double network_gradient(const std::vector<DenseLayer>& layers, std::span<const T> parameters, std::span<T> gradients,
                        MatrixView<const T> rows, MatrixView<const T> targets, Loss loss) {
    const auto weights = [&](const DenseLayer& l, auto vector) {
        return MatrixView{vector.data() + l.weights, l.outputs, l.inputs};
    };
    const auto bias = [&](const DenseLayer& l, auto vector) {
        return l.bias < 0 ? vector.first(0) : vector.subspan(l.bias, l.outputs);
    };
    const auto view = [&](std::vector<T>& values) {
        return MatrixView<T>{values.data(), rows.rows,
                             rows.rows == 0 ? 0 : static_cast<std::int64_t>(values.size()) / rows.rows};
    };
    std::vector<std::vector<T>> outputs;
    MatrixView<const T> input = rows;
    for (const DenseLayer& l : layers) {
        outputs.emplace_back(rows.rows * l.outputs);
        dense_forward<T>(input, weights(l, parameters), bias(l, parameters), l.activation, view(outputs.back()));
        input = view(outputs.back());
    }
    std::vector<T> delta(outputs.back().size());
    const double total = loss_sums<T>(loss, input, targets, view(delta)).loss;
    for (std::size_t l = layers.size(); l-- > 0;) {
        const MatrixView<const T> below = l == 0 ? rows : MatrixView<const T>(view(outputs[l - 1]));
        std::vector<T> delta_below(l == 0 ? 0 : outputs[l - 1].size());
        dense_backward<T>(below, weights(layers[l], parameters), view(outputs[l]), layers[l].activation, view(delta),
                          weights(layers[l], gradients), bias(layers[l], gradients),
                          l == 0 ? MatrixView<T>{} : view(delta_below));
        delta = std::move(delta_below);
    }
    return total;
}

}  // namespace pyddl::kernels::reference
