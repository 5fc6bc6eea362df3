#include "kernels/layers/noise.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

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

// ---- normal distributions as codes

void sample_codes(const GaussianCodes& codes, const float* noise, float* out) {
    const std::int64_t n = codes.size;
    for (std::int64_t b = 0; b < codes.rows; ++b) {
        const float *const means = codes.values + 2 * b * n, *const log_variances = means + n;
        for (std::int64_t i = 0; i < n; ++i) {
            const float mean = means[i], deviation = noise ? std::exp(0.5f * log_variances[i]) : 0.0f;
            for (std::int64_t s = b * codes.samples; s < (b + 1) * codes.samples; ++s)
                out[s * n + i] = noise ? mean + deviation * noise[s * n + i] : mean;
        }
    }
}

void codes_backward(const GaussianCodes& codes, const float* noise, const float* deltas, float weight, float* out) {
    const std::int64_t n = codes.size;
    for (std::int64_t b = 0; b < codes.rows; ++b) {
        const float *const means = codes.values + 2 * b * n, *const log_variances = means + n;
        float *const to_means = out + 2 * b * n, *const to_log_variances = to_means + n;
        for (std::int64_t i = 0; i < n; ++i) {
            const float deviation = std::exp(0.5f * log_variances[i]);
            float sum = 0, weighted = 0;
            for (std::int64_t s = b * codes.samples; s < (b + 1) * codes.samples; ++s) {
                sum += deltas[s * n + i];
                if (noise) weighted += deltas[s * n + i] * noise[s * n + i];
            }
            to_means[i] = sum + weight * means[i];
            to_log_variances[i] = 0.5f * (weighted * deviation + weight * (deviation * deviation - 1.0f));
        }
    }
}

double codes_divergence(const GaussianCodes& codes) {
    const std::int64_t n = codes.size;
    double sum = 0;
    for (std::int64_t b = 0; b < codes.rows; ++b)
        for (std::int64_t i = 0; i < n; ++i) {
            const double mean = codes.values[2 * b * n + i], log_variance = codes.values[(2 * b + 1) * n + i];
            sum += mean * mean + std::exp(log_variance) - 1 - log_variance;
        }
    return 0.5 * sum;
}

void codes_log_ratios(const GaussianCodes& codes, const float* noise, double* out) {
    const std::int64_t n = codes.size;
    std::fill_n(out, codes.rows * codes.samples, 0.0);
    for (std::int64_t b = 0; b < codes.rows; ++b) {
        const float *const means = codes.values + 2 * b * n, *const log_variances = means + n;
        for (std::int64_t i = 0; i < n; ++i) {
            const double mean = means[i], log_variance = log_variances[i], deviation = std::exp(0.5 * log_variance);
            for (std::int64_t s = b * codes.samples; s < (b + 1) * codes.samples; ++s) {
                const double e = noise[s * n + i], z = mean + deviation * e;
                out[s] += 0.5 * (e * e + log_variance - z * z);
            }
        }
    }
}

Gaussian::Gaussian(GaussianLayer layer)
    : WholeLayer({.inputs = 2 * layer.size, .outputs = layer.size}, {}), layer_(layer) {}

void Gaussian::forward(const Pass& pass, const Memory& memory, View in, View out) {
    const std::int64_t n = layer_.size;
    const bool samples = pass.training || pass.sampling;
    *static_cast<bool*>(memory.kept[1].reserve(1)) = samples;
    if (in.rows == 0) return;
    const GaussianCodes codes{in_float(in, floats_), in.rows, n};
    const View result = room_for(out, memory.scratch);
    float* drawn = nullptr;
    if (samples) {
        const RandomKey key = layer_.key.of(pass, in.rows);
        drawn = static_cast<float*>(memory.kept[0].reserve(out.size() * sizeof(float)));
        best<RandomTable>().normal(drawn, in.rows, n, pass.index.data(), key);
    }
    sample_codes(codes, drawn, result.as<float>());
    copy(result, out);
}

void Gaussian::backward(const Pass&, const Memory& memory, View in, View delta, View below) {
    if (!below || in.rows == 0) return;
    const std::int64_t n = layer_.size;
    const GaussianCodes codes{in_float(in, floats_), in.rows, n};
    const float* const drawn =
        *static_cast<const bool*>(memory.kept[1].data()) ? static_cast<const float*>(memory.kept[0].data()) : nullptr;
    // Deltas in float, and where the result is to be in float before it is rounded.
    auto* const room = static_cast<float*>(memory.scratch.reserve(3 * in.rows * n * sizeof(float)));
    copy(delta, View{room, in.rows, n});
    const View result = below.element == Element::float32 ? below : View{room + in.rows * n, in.rows, 2 * n};
    codes_backward(codes, drawn, room, layer_.weight, result.as<float>());
    copy(result, below);
}

void Gaussian::tangent(const Pass&, const Memory&, View, View, View, View) {
    throw std::logic_error("samples have no tangents");
}

OwnLoss Gaussian::own_loss(const Pass&, const Memory&, View in) {
    if (in.rows == 0) return {};
    const double divergence = codes_divergence({in_float(in, floats_), in.rows, layer_.size});
    return {layer_.weight * divergence, divergence};
}

}  // namespace pyddl::kernels
