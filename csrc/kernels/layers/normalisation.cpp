#include "kernels/layers/normalisation.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/layers/normalisation_loops.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

[[noreturn]] void refuse_tangent() { throw std::logic_error("a normalisation has no tangents"); }

/// grads := or += sums
void give(const Pass& pass, std::int64_t begin, const double* sums, std::int64_t size) {
    float* const to = pass.gradients.data() + begin;
    for (std::int64_t c = 0; c < size; ++c) to[c] = static_cast<float>(sums[c] + (pass.add ? to[c] : 0.0));
}

/// The values of C channels once and again, `times` in all: for loops over several places at a time.
void repeat(float* values, std::int64_t C, std::int64_t times) {
    for (std::int64_t i = 1; i < times; ++i) std::copy_n(values, C, values + i * C);
}

}  // namespace

Layer::Sizes BatchNorm::sizes_of(const BatchNormLayer& l) {
    const std::int64_t C = l.picture.channels;
    return {.inputs = l.picture.size(),
            .outputs = l.picture.size(),
            .parameters_end = std::max(l.scale, l.shift) + C,
            .buffers_end = std::max({l.sums + C, l.squares + C, l.rows + 1})};
}

BatchNorm::BatchNorm(BatchNormLayer layer)
    : WholeLayer(sizes_of(layer), {.channels = layer.picture.channels, .activation = layer.activation}),
      layer_(std::move(layer)) {}

/// mean (C), 1 / sqrt(variance + epsilon) (C), number := of this pass's rows; moves the running sums.
void BatchNorm::measure(const Pass& pass, View in, float* kept) {
    const std::int64_t C = tail_.channels, P = layer_.picture.positions(), n = folded(P, C), wide = n * C;
    const std::int64_t R = in.size() / wide;
    auto* const mean = static_cast<double*>(doubles_.reserve(2 * wide * sizeof(double)));
    double* const squares = mean + wide;
    std::fill_n(mean, 2 * wide, 0.0);
    if (in.rows > 0)
        with_elements(in, in, [&]<class In, class Out>(In*, Out*) {
            best<NormalisationTable<In, Out>>().statistics(in.as<const In>(), R, wide, mean, squares);
        });
    for (std::int64_t c = 0; c < C && R > 0; ++c) {  // of channels, from those of a channel's places
        double m = 0, q = 0;
        for (std::int64_t i = 0; i < n; ++i) m += mean[i * C + c];
        m /= static_cast<double>(n);
        for (std::int64_t i = 0; i < n; ++i) {
            const double d = mean[i * C + c] - m;
            q += squares[i * C + c] + d * d * static_cast<double>(R);
        }
        mean[c] = m;
        squares[c] = q;
    }
    double number = static_cast<double>(in.rows * P), workers = 1;
    if (layer_.synchronised && pass.sum.add) {
        auto* const shared = static_cast<float*>(exchanged_.reserve((C + 2) * sizeof(float)));
        for (std::int64_t c = 0; c < C; ++c) shared[c] = static_cast<float>(mean[c] * number);
        shared[C] = static_cast<float>(number);
        shared[C + 1] = 1;
        pass.sum(shared, C + 2);
        const double all = shared[C];
        workers = shared[C + 1];
        for (std::int64_t c = 0; c < C; ++c) {
            const double of_all = shared[c] / std::max(all, 1.0), d = mean[c] - of_all;
            shared[c] = static_cast<float>(squares[c] + d * d * number);  // about the mean of all
            mean[c] = of_all;
        }
        pass.sum(shared, C);
        for (std::int64_t c = 0; c < C; ++c) squares[c] = shared[c];
        number = all;
    }
    if (number == 1)
        throw std::invalid_argument("layer " + layer_.name +
                                    " trains on one value per channel, which has no variance; expected two or more "
                                    "rows: batch norm needs a larger batch, or synchronised=True");
    const auto move = [&](std::int64_t place, double value) {
        float& s = pass.buffers[place];
        s = static_cast<float>(static_cast<double>(layer_.decay) * s + value / workers);
    };
    for (std::int64_t c = 0; c < C; ++c) {
        move(layer_.sums + c, mean[c] * number);
        move(layer_.squares + c, squares[c] + mean[c] * mean[c] * number);
        kept[c] = static_cast<float>(mean[c]);
        kept[C + c] = static_cast<float>(1 / std::sqrt(squares[c] / std::max(number, 1.0) + layer_.epsilon));
    }
    move(layer_.rows, number);
    kept[2 * C] = static_cast<float>(number);
}

/// The same of the running sums, which stay as they are.
void BatchNorm::recall(const Pass& pass, float* kept) const {
    const std::int64_t C = tail_.channels;
    const double number = pass.buffers[layer_.rows];
    for (std::int64_t c = 0; c < C; ++c) {
        const double mean = number > 0 ? pass.buffers[layer_.sums + c] / number : 0.0;
        const double variance = number > 0 ? pass.buffers[layer_.squares + c] / number - mean * mean : 1.0;
        kept[c] = static_cast<float>(mean);
        kept[C + c] = static_cast<float>(
            1 / std::sqrt(std::isnan(variance) ? variance : std::max(variance, 0.0) + layer_.epsilon));
    }
    kept[2 * C] = 0;
}

void BatchNorm::forward(const Pass& pass, const Memory& memory, View in, View out) {
    const std::int64_t C = tail_.channels, n = folded(layer_.picture.positions(), C), wide = n * C;
    auto* const kept = static_cast<float*>(memory.kept[0].reserve((2 * C + 1) * sizeof(float)));
    if (pass.training)
        measure(pass, in, kept);
    else
        recall(pass, kept);
    if (in.rows == 0) return;
    auto* const mean = static_cast<float*>(floats_.reserve(3 * wide * sizeof(float)));
    float *const scale = mean + wide, *const shift = scale + wide;
    const float* const parameters = pass.parameters.data();
    for (std::int64_t c = 0; c < C; ++c) {
        mean[c] = kept[c];
        scale[c] = kept[C + c] * parameters[layer_.scale + c];
        shift[c] = parameters[layer_.shift + c];
    }
    for (float* each : {mean, scale, shift}) repeat(each, C, n);
    const bool relu = tail_.activation == Activation::relu;
    with_elements(in, out, [&]<class In, class Out>(In*, Out*) {
        best<NormalisationTable<In, Out>>().normalise(in.as<const In>(), out.as<Out>(), in.size() / wide, wide, mean,
                                                      scale, shift, relu);
    });
    if (!relu) activate(out);
}

void BatchNorm::backward(const Pass& pass, const Memory& memory, View in, View delta, View below) {
    const std::int64_t C = tail_.channels, n = folded(layer_.picture.positions(), C), wide = n * C;
    const std::int64_t R = in.size() / wide;
    const auto* const kept = static_cast<const float*>(memory.kept[0].data());
    auto* const mean = static_cast<float*>(floats_.reserve(4 * wide * sizeof(float)));
    float *const a = mean + wide, *const b = a + wide, *const c = b + wide;
    std::copy_n(kept, C, mean);
    repeat(mean, C, n);
    auto* const sums = static_cast<double*>(doubles_.reserve(2 * wide * sizeof(double)));
    double* const moments = sums + wide;
    if (pass.training || !pass.gradients.empty()) {
        std::fill_n(sums, 2 * wide, 0.0);
        if (in.rows > 0)
            with_elements(in, in, [&]<class In, class Out>(In*, Out*) {
                best<NormalisationTable<In, Out>>().moments(in.as<const In>(), delta.as<const In>(), R, wide, mean,
                                                            sums, moments);
            });
        for (std::int64_t i = C; i < wide; ++i) {
            sums[i % C] += sums[i];
            moments[i % C] += moments[i];
        }
        for (std::int64_t i = 0; i < C; ++i) moments[i] *= kept[C + i];
    }
    if (!pass.gradients.empty()) {
        give(pass, layer_.scale, moments, C);
        give(pass, layer_.shift, sums, C);
        announce(pass.ready, layer_.scale, layer_.scale + C, layer_.shift, layer_.shift + C);
    }
    if (pass.training && layer_.synchronised && pass.sum.add) {
        auto* const shared = static_cast<float*>(exchanged_.reserve(2 * C * sizeof(float)));
        for (std::int64_t i = 0; i < C; ++i) {
            shared[i] = static_cast<float>(sums[i]);
            shared[C + i] = static_cast<float>(moments[i]);
        }
        pass.sum(shared, 2 * C);
        for (std::int64_t i = 0; i < C; ++i) {
            sums[i] = shared[i];
            moments[i] = shared[C + i];
        }
    }
    if (!below || in.rows == 0) return;
    const double share = pass.training ? 1.0 / kept[2 * C] : 0.0;
    for (std::int64_t i = 0; i < C; ++i) {
        const double r = kept[C + i], scaled = pass.parameters[layer_.scale + i] * r;
        a[i] = static_cast<float>(scaled);
        b[i] = pass.training ? static_cast<float>(-scaled * r * moments[i] * share) : 0.0f;
        c[i] = pass.training ? static_cast<float>(-scaled * sums[i] * share) : 0.0f;
    }
    for (float* each : {a, b, c}) repeat(each, C, n);
    with_elements(in, below, [&]<class In, class Out>(In*, Out*) {
        best<NormalisationTable<In, Out>>().combine(in.as<const In>(), delta.as<const In>(), below.as<Out>(), R, wide,
                                                    mean, a, b, c);
    });
}

void BatchNorm::tangent(const Pass&, const Memory&, View, View, View, View) { refuse_tangent(); }

LayerNorm::LayerNorm(LayerNormLayer l)
    : WholeLayer({.inputs = l.picture.size(),
                  .outputs = l.picture.size(),
                  .parameters_end = std::max(l.scale, l.shift) + l.picture.channels},
                 {.channels = l.picture.channels, .bias = l.shift, .activation = l.activation}),
      layer_(l) {}

void LayerNorm::forward(const Pass& pass, const Memory& memory, View in, View out) {
    if (in.rows == 0) return;
    auto* const of_rows = static_cast<float*>(memory.kept[0].reserve(2 * in.rows * sizeof(float)));
    const float* const parameters = pass.parameters.data();
    with_elements(in, out, [&]<class In, class Out>(In*, Out*) {
        best<NormalisationTable<In, Out>>().normalise_rows(
            in.as<const In>(), out.as<Out>(), in.rows, layer_.picture.positions(), tail_.channels,
            parameters + layer_.scale, parameters + layer_.shift, layer_.epsilon, of_rows);
    });
    activate(out);
}

void LayerNorm::backward(const Pass& pass, const Memory& memory, View in, View delta, View below) {
    const bool trains = !pass.gradients.empty();
    auto* const sums = trains ? static_cast<double*>(sums_.reserve(tail_.channels * sizeof(double))) : nullptr;
    if (trains && in.rows == 0) clear(pass, layer_.scale, tail_.channels);
    if (in.rows > 0)
        with_elements(in, below ? below : in, [&]<class In, class Out>(In*, Out*) {
            best<NormalisationTable<In, Out>>().rows_backward(in.as<const In>(), delta.as<const In>(), below.as<Out>(),
                                                              in.rows, layer_.picture.positions(), tail_.channels,
                                                              pass.parameters.data() + layer_.scale,
                                                              static_cast<const float*>(memory.kept[0].data()), sums);
        });
    if (!trains) return;
    if (in.rows > 0) give(pass, layer_.scale, sums, tail_.channels);
    announce(pass.ready, layer_.scale, layer_.scale + tail_.channels, layer_.shift, layer_.shift + tail_.channels);
}

void LayerNorm::tangent(const Pass&, const Memory&, View, View, View, View) { refuse_tangent(); }

}  // namespace pyddl::kernels
