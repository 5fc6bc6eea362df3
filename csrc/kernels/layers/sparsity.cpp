#include "kernels/layers/sparsity.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace pyddl::kernels {
namespace {

/// Of a mean, and of 1 - mean: a unit that is off for all rows has a slope to come back by.
constexpr double least = 1e-6;

}  // namespace

Sparsity::Sparsity(SparsityLayer layer) : WholeLayer({.inputs = layer.size, .outputs = layer.size}, {}), layer_(layer) {
    if (!(layer.target > 0 && layer.target < 1) || !(layer.cost > 0))
        throw std::invalid_argument("sparsity has target " + std::to_string(layer.target) + " and cost " +
                                    std::to_string(layer.cost) + "; expected a target within (0, 1), a cost above 0");
}

/// Keeps the slope of each value, and after them the loss of a row.
void Sparsity::forward(const Pass& pass, const Memory& memory, View in, View out) {
    const std::int64_t n = layer_.size;
    if (pass.training) {
        auto* const sums = static_cast<double*>(sums_.reserve((n + 1) * sizeof(double)));
        std::fill_n(sums, n, 0.0);
        const float* row = in_float(in, memory.scratch);
        for (std::int64_t b = 0; b < in.rows; ++b, row += n)
            for (std::int64_t i = 0; i < n; ++i) sums[i] += row[i];
        auto* const kept = static_cast<float*>(memory.kept[0].reserve((n + 1) * sizeof(float)));
        std::transform(sums, sums + n, kept, [](double sum) { return static_cast<float>(sum); });
        kept[n] = static_cast<float>(in.rows);
        pass.sum(kept, n + 1);
        const double rows = std::max(kept[n], 1.0f), t = layer_.target, cost = layer_.cost;
        double loss = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            const double m = std::isnan(kept[i]) ? kept[i] : std::clamp(kept[i] / rows, least, 1 - least);
            loss += t * std::log(t / m) + (1 - t) * std::log((1 - t) / (1 - m));
            kept[i] = static_cast<float>(cost * ((1 - t) / (1 - m) - t / m));
        }
        kept[n] = static_cast<float>(cost * loss);
    }
    if (in.rows > 0) copy(in, out);
}

void Sparsity::backward(const Pass& pass, const Memory& memory, View, View delta, View below) {
    if (!below || delta.rows == 0) return;
    if (!pass.training) return copy(delta, below);
    const std::int64_t n = layer_.size;
    const auto* const slopes = static_cast<const float*>(memory.kept[0].data());
    View result = below;
    if (below.element != Element::float32)
        result = {memory.scratch.reserve(below.size() * sizeof(float)), below.rows, below.columns};
    copy(delta, result);
    auto* row = result.as<float>();
    for (std::int64_t b = 0; b < delta.rows; ++b, row += n)
        for (std::int64_t i = 0; i < n; ++i) row[i] += slopes[i];
    if (result.data != below.data) copy(result, below);
}

void Sparsity::tangent(const Pass&, const Memory&, View, View, View, View) {
    throw std::logic_error("a penalty on means has no tangents");
}

OwnLoss Sparsity::own_loss(const Pass& pass, const Memory& memory, View in) {
    if (!pass.training) return {};
    const double of_row = static_cast<const float*>(memory.kept[0].data())[layer_.size];
    return {of_row * static_cast<double>(in.rows), 0};
}

}  // namespace pyddl::kernels
