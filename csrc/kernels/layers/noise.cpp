#include "kernels/layers/noise.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

/// A matrix in float: itself, or a copy in `scratch`.
const float* in_float(View v, Scratch& scratch) {
    if (v.element == Element::float32) return v.as<const float>();
    const View to{scratch.reserve(v.size() * sizeof(float)), v.rows, v.columns};
    copy(v, to);
    return to.as<const float>();
}

/// Where to write a matrix in float: itself, or room in `scratch`, to be copied.
View room_for(View v, Scratch& scratch) {
    if (v.element == Element::float32) return v;
    return {scratch.reserve(v.size() * sizeof(float)), v.rows, v.columns};
}

}  // namespace

RandomKey NoiseKey::of(const Pass& pass, std::int64_t rows) const {
    if (std::ssize(pass.index) != rows)
        throw std::invalid_argument("a layer draws numbers for " + std::to_string(rows) + " rows, whose indices are " +
                                    std::to_string(pass.index.size()) +
                                    "; expected a batch with an index for each row");
    if (number > 255 || pass.key.turn > 15)
        throw std::invalid_argument("a layer that draws numbers is number " + std::to_string(number) + " in turn " +
                                    std::to_string(pass.key.turn) +
                                    "; expected a number of at most 255 and a turn of at most 15");
    return {pass.key.seed, purpose, pass.key.step,
            pass.key.turn << 12 | static_cast<std::uint64_t>(pass.slot) << 8 | static_cast<std::uint64_t>(number)};
}

Noise::Noise(NoiseLayer layer) : WholeLayer({.inputs = layer.size, .outputs = layer.size}, {}), layer_(layer) {
    const bool additive = layer.kind == NoiseLayer::Kind::gaussian;
    if (!(layer.amount >= 0) || (!additive && !(layer.amount < 1)))
        throw std::invalid_argument("noise has amount " + std::to_string(layer.amount) +
                                    "; expected 0 or more, and below 1 for a probability");
}

/// to := from times what `forward` has kept.
void Noise::multiply(const Pass& pass, const Memory& memory, View from, View to) const {
    if (!to || from.rows == 0) return;
    if (!pass.training || layer_.kind == NoiseLayer::Kind::gaussian) return copy(from, to);
    const auto* const mask = static_cast<const float*>(memory.kept[0].data());
    const View result = room_for(to, memory.scratch);
    copy(from, result);
    float* const values = result.as<float>();
    for (std::int64_t i = 0; i < result.size(); ++i) values[i] *= mask[i];
    copy(result, to);
}

void Noise::forward(const Pass& pass, const Memory& memory, View in, View out) {
    if (in.rows == 0) return;
    if (!pass.training) return copy(in, out);
    const RandomKey key = layer_.key.of(pass, in.rows);
    auto* const drawn = static_cast<float*>(memory.kept[0].reserve(in.size() * sizeof(float)));
    const auto& table = best<RandomTable>();
    if (layer_.kind == NoiseLayer::Kind::gaussian) {
        table.normal(drawn, in.rows, in.columns, pass.index.data(), key);
        const View result = room_for(out, memory.scratch);
        copy(in, result);
        for (std::int64_t i = 0; i < in.size(); ++i) result.as<float>()[i] += layer_.amount * drawn[i];
        return copy(result, out);
    }
    const float left = layer_.kind == NoiseLayer::Kind::dropout ? 1.0f / (1.0f - layer_.amount) : 1.0f;
    table.uniform(drawn, in.rows, in.columns, pass.index.data(), key);
    for (std::int64_t i = 0; i < in.size(); ++i) drawn[i] = drawn[i] < layer_.amount ? 0.0f : left;
    multiply(pass, memory, in, out);
}

void Noise::backward(const Pass& pass, const Memory& memory, View, View delta, View below) {
    multiply(pass, memory, delta, below);
}

void Noise::tangent(const Pass& pass, const Memory& memory, View, View, View direction, View moved) {
    multiply(pass, memory, direction, moved);
}

Gaussian::Gaussian(GaussianLayer layer)
    : WholeLayer({.inputs = 2 * layer.size, .outputs = layer.size}, {}), layer_(layer) {}

void Gaussian::forward(const Pass& pass, const Memory& memory, View in, View out) {
    const std::int64_t n = layer_.size;
    const bool samples = pass.training || pass.sampling;
    *static_cast<bool*>(memory.kept[1].reserve(1)) = samples;
    if (in.rows == 0) return;
    const float* const given = in_float(in, floats_);
    const View result = room_for(out, memory.scratch);
    auto* const sample = result.as<float>();
    float* drawn = nullptr;
    if (samples) {
        const RandomKey key = layer_.key.of(pass, in.rows);
        drawn = static_cast<float*>(memory.kept[0].reserve(out.size() * sizeof(float)));
        best<RandomTable>().normal(drawn, in.rows, n, pass.index.data(), key);
    }
    for (std::int64_t b = 0; b < in.rows; ++b)
        for (std::int64_t i = 0; i < n; ++i) {
            const float mean = given[2 * b * n + i], log_variance = given[(2 * b + 1) * n + i];
            sample[b * n + i] = samples ? mean + std::exp(0.5f * log_variance) * drawn[b * n + i] : mean;
        }
    copy(result, out);
}

void Gaussian::backward(const Pass&, const Memory& memory, View in, View delta, View below) {
    if (!below || in.rows == 0) return;
    const std::int64_t n = layer_.size;
    const float* const given = in_float(in, floats_);
    const float* const drawn =
        *static_cast<const bool*>(memory.kept[1].data()) ? static_cast<const float*>(memory.kept[0].data()) : nullptr;
    // Deltas in float, and where the result is to be in float before it is rounded.
    auto* const room = static_cast<float*>(memory.scratch.reserve(3 * in.rows * n * sizeof(float)));
    const View deltas{room, in.rows, n};
    copy(delta, deltas);
    const View result = below.element == Element::float32 ? below : View{room + in.rows * n, in.rows, 2 * n};
    auto* const to = result.as<float>();
    for (std::int64_t b = 0; b < in.rows; ++b)
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int64_t at = 2 * b * n + i;
            const float mean = given[at], deviation = std::exp(0.5f * given[at + n]), d = room[b * n + i];
            to[at] = d + layer_.weight * mean;
            to[at + n] = (drawn ? 0.5f * d * drawn[b * n + i] * deviation : 0.0f) +
                         layer_.weight * 0.5f * (deviation * deviation - 1.0f);
        }
    copy(result, below);
}

void Gaussian::tangent(const Pass&, const Memory&, View, View, View, View) {
    throw std::logic_error("samples have no tangents");
}

OwnLoss Gaussian::own_loss(const Pass&, const Memory&, View in) {
    if (in.rows == 0) return {};
    const std::int64_t n = layer_.size;
    const float* const given = in_float(in, floats_);
    double sum = 0;
    for (std::int64_t b = 0; b < in.rows; ++b)
        for (std::int64_t i = 0; i < n; ++i) {
            const double mean = given[2 * b * n + i], log_variance = given[(2 * b + 1) * n + i];
            sum += mean * mean + std::exp(log_variance) - 1 - log_variance;
        }
    return {layer_.weight * 0.5 * sum, 0.5 * sum};
}

}  // namespace pyddl::kernels
