#include "kernels/layers/whole.hpp"

#include <algorithm>

#include "kernels/layers/picture_loops.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {

std::string Picture::text() const {
    std::string text = "(";
    text.append(std::to_string(height)).append(", ").append(std::to_string(width)).append(", ");
    return text.append(std::to_string(channels)).append(")");
}

std::int64_t folded(std::int64_t positions, std::int64_t channels) {
    const std::int64_t wanted = 64 * threads();
    for (std::int64_t n = 1; n < positions; ++n)
        if (positions % n == 0 && n * channels >= wanted) return n;
    return positions;
}

bool WholeLayer::piecewise_linear() const {
    const Activation a = tail_.activation;
    return a == Activation::linear || a == Activation::relu || a == Activation::leaky_relu;
}

void WholeLayer::activate(View values) const {
    if (values.element == Element::float32)
        best<ActivationTable<float>>().activate(tail_.activation, values.as<float>(), values.size());
    else
        best<ActivationTable<Bfloat16>>().activate(tail_.activation, values.as<Bfloat16>(), values.size());
}

void WholeLayer::finish(const Pass& pass, View values) {
    if (tail_.bias >= 0)
        with_elements(values, values, [&]<class In, class Out>(In*, Out*) {
            best<PictureTable<In, Out>>().add_bias(values.as<Out>(), values.size() / tail_.channels, tail_.channels,
                                                   pass.parameters.data() + tail_.bias);
        });
    activate(values);
}

void WholeLayer::multiply_by_slope(View out, View values) const {
    if (tail_.activation == Activation::linear) return;
    if (values.element == Element::float32)
        best<ActivationTable<float>>().gradient(tail_.activation, out.as<const float>(), values.as<float>(),
                                                values.rows, values.columns, nullptr);
    else
        best<ActivationTable<Bfloat16>>().gradient(tail_.activation, out.as<const Bfloat16>(), values.as<Bfloat16>(),
                                                   values.rows, values.columns, nullptr);
}

void WholeLayer::clear(const Pass& pass, std::int64_t begin, std::int64_t size) {
    if (begin >= 0 && !pass.add && !pass.gradients.empty()) std::fill_n(pass.gradients.data() + begin, size, 0.0f);
}

/// Room for sums of columns, or null where no gradient of the bias is wanted; followed by `fold`.
float* WholeLayer::sums(const Pass& pass, std::int64_t columns) {
    if (tail_.bias < 0 || pass.gradients.empty()) return nullptr;
    return static_cast<float*>(sums_.reserve(columns * sizeof(float)));
}

/// The gradient of the bias from sums of columns, which are those of channels once and again.
void WholeLayer::fold(const Pass& pass, std::int64_t columns) {
    if (tail_.bias < 0 || pass.gradients.empty()) return;
    const auto* from = static_cast<const float*>(sums_.data());
    float* const to = pass.gradients.data() + tail_.bias;
    for (std::int64_t c = 0; c < tail_.channels; ++c) {
        double total = pass.add ? to[c] : 0.0;
        for (std::int64_t i = c; i < columns; i += tail_.channels) total += from[i];
        to[c] = static_cast<float>(total);
    }
}

double WholeLayer::loss(const Pass& pass, const Memory&, Loss loss, View out, const Targets& targets, View delta) {
    if (out.rows == 0) {
        clear(pass, tail_.bias, tail_.channels);
        return 0.0;
    }
    float* const columns = sums(pass, outputs);
    const auto run = [&]<class T>(T* deltas) {
        const auto& table = best<LossTable<T>>();
        if (loss == Loss::softmax)
            return table.softmax_gradient(out.as<const float>(), targets.labels.data(), deltas, out.rows, out.columns,
                                          columns);
        return table.gradient(loss, tail_.activation, out.as<const float>(), targets.values.data, deltas, out.rows,
                              out.columns, columns);
    };
    const double total = delta.element == Element::float32 ? run(delta.as<float>()) : run(delta.as<Bfloat16>());
    fold(pass, outputs);
    return total;
}

void WholeLayer::slope(const Pass& pass, const Memory&, View out, View above, View delta) {
    if (delta.rows == 0) return clear(pass, tail_.bias, tail_.channels);
    copy(above, delta);
    const std::int64_t positions = outputs / tail_.channels, n = folded(positions, tail_.channels);
    const std::int64_t columns = n * tail_.channels, rows = delta.size() / columns;
    float* const to = sums(pass, columns);
    if (delta.element == Element::float32)
        best<ActivationTable<float>>().gradient(tail_.activation, out ? out.as<const float>() : delta.as<const float>(),
                                                delta.as<float>(), rows, columns, to);
    else
        best<ActivationTable<Bfloat16>>().gradient(tail_.activation,
                                                   out ? out.as<const Bfloat16>() : delta.as<const Bfloat16>(),
                                                   delta.as<Bfloat16>(), rows, columns, to);
    fold(pass, columns);
}

}  // namespace pyddl::kernels
