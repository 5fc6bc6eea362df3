#include "kernels/layers/convolution.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/pairs.hpp"
#include "kernels/simd.hpp"
#include "kernels/vectors.hpp"

namespace pyddl::kernels {
namespace {

/// Each made when first used; [1] gives float32 where the pass is in bfloat16.
struct ConvPrimitives final : Primitives {
    std::optional<Convolution> forward[2], down[2], up[2], gradient;
    std::optional<Product> few_down, few_up, few_gradient;
    std::optional<Winograd> fast_down, fast_up, fast_gradient;
};

ConvPrimitives& primitives_of(const Memory& memory) { return static_cast<ConvPrimitives&>(memory.primitives); }

void check(const ConvLayer& layer) {
    const ConvolutionShape& s = layer.shape;
    const auto fits = [&](std::int64_t large, std::int64_t small) {
        return large + 2 * s.padding >= s.kernel && (large + 2 * s.padding - s.kernel) / s.stride + 1 == small;
    };
    if (s.kernel < 1 || s.stride < 1 || s.padding < 0 || s.padding >= s.kernel || s.large.channels < 1 ||
        s.small.channels < 1 || !fits(s.large.height, s.small.height) || !fits(s.large.width, s.small.width))
        throw std::invalid_argument("a convolution leads from " + s.large.text() + " to " + s.small.text() +
                                    " with kernel " + std::to_string(s.kernel) + ", stride " +
                                    std::to_string(s.stride) + ", padding " + std::to_string(s.padding) +
                                    "; expected sizes that belong together");
    if (layer.weights < 0 || layer.bias < -1)
        throw std::invalid_argument("a convolution has offsets " + std::to_string(layer.weights) + " and " +
                                    std::to_string(layer.bias) + "; expected 0 or more (bias: or -1 for none)");
}

/// to (columns, rows, size) := or += from (rows, columns, size)
void exchange_axes(const float* from, float* to, std::int64_t rows, std::int64_t columns, std::int64_t size, bool add) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < columns; ++c)
            for (std::int64_t i = 0; i < size; ++i) {
                float& at = to[(c * rows + r) * size + i];
                at = from[(r * columns + c) * size + i] + (add ? at : 0.0f);
            }
}

}  // namespace

Layer::Sizes Conv::sizes_of(const ConvLayer& layer) {
    check(layer);
    const ConvolutionShape& s = layer.shape;
    const Picture &in = layer.transposed ? s.small : s.large, &out = layer.transposed ? s.large : s.small;
    return {.inputs = in.size(),
            .outputs = out.size(),
            .parameters_end = std::max(layer.weights + s.weights(), layer.bias < 0 ? 0 : layer.bias + out.channels),
            .flops = s.flops()};
}

Conv::Conv(ConvLayer layer)
    : WholeLayer(sizes_of(layer), {.channels = (layer.transposed ? layer.shape.large : layer.shape.small).channels,
                                   .bias = layer.bias,
                                   .activation = layer.activation}),
      layer_(layer) {}

std::unique_ptr<Primitives> Conv::primitives() const { return std::make_unique<ConvPrimitives>(); }

const void* Conv::ordered(const Pass& pass, const Convolution& primitive, Ordered& kept) const {
    const float* const weights = pass.parameters.data() + layer_.weights;
    const std::size_t bytes = primitive.weights_bytes();
    if (bytes == 0) return weights;
    void* const to = kept.memory.reserve(bytes);
    if (kept.call != pass.call || kept.of != &primitive) primitive.order(weights, to);
    kept.call = pass.call;
    kept.of = &primitive;
    return to;
}

bool Conv::takes_winograd(Element element, std::int64_t rows) const {
    return layer_.winograd && element == Element::float32 && winograd_fits(shape()) && winograd_pays(shape(), rows);
}

const float* Conv::transformed(const Pass& pass, const Winograd& winograd, Ordered& kept) const {
    auto* const to = static_cast<float*>(kept.memory.reserve(winograd.weights() * sizeof(float)));
    if (kept.call != pass.call || kept.of != &winograd) winograd.transform(pass.parameters.data() + layer_.weights, to);
    kept.call = pass.call;
    kept.of = &winograd;
    return to;
}

float* Conv::room_of(const Winograd& winograd) {
    return static_cast<float*>(room_.reserve(winograd.room() * sizeof(float)));
}

/// The weights as a product reads them: (k k, C, F) as it is, or (C, k k, F).
const void* Conv::matrix_of_weights(const Pass& pass, Element element, bool channels_first) {
    const float* weights = pass.parameters.data() + layer_.weights;
    const std::int64_t size = shape().weights(), taps = shape().kernel * shape().kernel;
    if (channels_first) {
        auto* turned = static_cast<float*>(matrix_in_float_.reserve(size * sizeof(float)));
        exchange_axes(weights, turned, taps, shape().large.channels, shape().small.channels, false);
        weights = turned;
    }
    if (element == Element::float32) return weights;
    auto* rounded = static_cast<Bfloat16*>(matrix_.reserve(size * sizeof(Bfloat16)));
    best<ConversionTable>().to_bfloat16(weights, rounded, size);
    return rounded;
}

/// Of the side with few channels.
Window Conv::window(std::int64_t rows) const {
    const ConvolutionShape& s = shape();
    return {rows, s.large.height, s.large.width, 0, s.small.height, s.small.width, s.kernel, s.stride, s.padding};
}

View Conv::products(std::int64_t rows, std::int64_t columns) {
    return {products_.reserve(rows * columns * sizeof(float)), rows, columns};
}

/// @param whole with bias and activation, as this layer's output
void Conv::down(const Pass& pass, const Memory& memory, View large, View small, bool whole) {
    ConvPrimitives& made = primitives_of(memory);
    const ConvolutionShape& s = shape();
    if (few_small()) {
        const std::int64_t taps = s.kernel * s.kernel * s.small.channels;
        const View p = products(large.rows * s.large.positions(), taps);
        memory.run(made.few_down, {.m = p.rows, .k = s.large.channels, .n = taps, .in = large.element}, large.data,
                   matrix_of_weights(pass, large.element, true), nullptr, p.data);
        Window x = window(large.rows);
        x.C = s.small.channels;
        with_elements(small, small, [&]<class In, class Out>(In*, Out*) {
            best<PictureTable<In, Out>>().gather(p.as<const float>(), small.as<Out>(), x);
        });
        if (whole) finish(pass, small);
        return;
    }
    if (takes_winograd(large.element, large.rows)) {
        auto& winograd = made.fast_down;
        if (!winograd) winograd.emplace(s, Convolution::Kind::down, large.rows);
        const bool relu = whole && tail_.activation == Activation::relu;
        (*winograd)(large.as<const float>(), transformed(pass, *winograd, down_),
                    whole&& tail_.bias >= 0 ? pass.parameters.data() + tail_.bias : nullptr, relu, small.as<float>(),
                    room_of(*winograd), memory.scratch.reserve(winograd->scratch_bytes()));
        if (whole && !relu) activate(small);
        return;
    }
    auto& primitive = (whole ? made.forward : made.down)[small.element == Element::float32];
    const Activation activation = whole ? tail_.activation : Activation::linear;
    const bool fuses = fuses_with_product(activation), bias = whole && tail_.bias >= 0;
    if (!primitive)
        primitive.emplace(s, Convolution::Options{.kind = Convolution::Kind::down,
                                                  .rows = large.rows,
                                                  .in = large.element,
                                                  .out = small.element,
                                                  .bias = bias,
                                                  .activation = fuses ? activation : Activation::linear});
    (*primitive)(large.data, small.data, ordered(pass, *primitive, down_),
                 bias ? pass.parameters.data() + tail_.bias : nullptr,
                 memory.scratch.reserve(primitive->scratch_bytes()));
    if (!fuses) activate(small);
}

void Conv::up(const Pass& pass, const Memory& memory, View small, View large) {
    ConvPrimitives& made = primitives_of(memory);
    const ConvolutionShape& s = shape();
    if (few_large()) {
        const std::int64_t taps = s.kernel * s.kernel * s.large.channels;
        const View p = products(small.rows * s.small.positions(), taps);
        memory.run(made.few_up,
                   {.m = p.rows, .k = s.small.channels, .n = taps, .b_transposed = true, .in = small.element},
                   small.data, matrix_of_weights(pass, small.element, false), nullptr, p.data);
        Window x = window(small.rows);
        x.C = s.large.channels;
        with_elements(large, large, [&]<class In, class Out>(In*, Out*) {
            best<PictureTable<In, Out>>().scatter(p.as<const float>(), large.as<Out>(), x);
        });
        return;
    }
    if (takes_winograd(small.element, small.rows)) {
        auto& winograd = made.fast_up;
        if (!winograd) winograd.emplace(s, Convolution::Kind::up, small.rows);
        return (*winograd)(small.as<const float>(), transformed(pass, *winograd, up_), nullptr, false,
                           large.as<float>(), room_of(*winograd), memory.scratch.reserve(winograd->scratch_bytes()));
    }
    auto& primitive = made.up[large.element == Element::float32];
    if (!primitive)
        primitive.emplace(
            s, Convolution::Options{
                   .kind = Convolution::Kind::up, .rows = small.rows, .in = small.element, .out = large.element});
    (*primitive)(large.data, small.data, ordered(pass, *primitive, up_), nullptr,
                 memory.scratch.reserve(primitive->scratch_bytes()));
}

void Conv::weight_gradients(const Pass& pass, const Memory& memory, View large, View small) {
    ConvPrimitives& made = primitives_of(memory);
    const ConvolutionShape& s = shape();
    float* const to = pass.gradients.data() + layer_.weights;
    const auto room = [&] { return static_cast<float*>(gradients_.reserve(s.weights() * sizeof(float))); };
    if (few_small()) {
        const std::int64_t taps = s.kernel * s.kernel, columns = taps * s.small.channels;
        const std::int64_t places = large.rows * s.large.positions();
        void* const around = spread_.reserve(places * columns * bytes_of(small.element));
        Window x = window(large.rows);
        x.C = s.small.channels;
        with_elements(small, small, [&]<class In, class Out>(In*, Out*) {
            best<PictureTable<In, Out>>().spread(small.as<const In>(), static_cast<In*>(around), x);
        });
        memory.run(made.few_gradient,
                   {.m = s.large.channels, .k = places, .n = columns, .a_transposed = true, .in = large.element},
                   large.data, around, nullptr, room());
        return exchange_axes(room(), to, s.large.channels, taps, s.small.channels, pass.add);
    }
    if (takes_winograd(large.element, large.rows)) {
        auto& winograd = made.fast_gradient;
        if (!winograd) winograd.emplace(s, Convolution::Kind::gradient, large.rows);
        auto* const sums = static_cast<float*>(ordered_gradients_.reserve(winograd->weights() * sizeof(float)));
        return winograd->gradient(large.as<const float>(), small.as<const float>(), to, pass.add, sums,
                                  room_of(*winograd), memory.scratch.reserve(winograd->scratch_bytes()));
    }
    if (large.element == Element::bfloat16 && pairs_fit(s, large.rows))
        return pairs_gradient(s, large.rows, large.as<const Bfloat16>(), small.as<const Bfloat16>(), to, pass.add,
                              memory.scratch.reserve(pairs_scratch(s)));
    auto& primitive = made.gradient;
    if (!primitive)
        primitive.emplace(
            s, Convolution::Options{.kind = Convolution::Kind::gradient, .rows = large.rows, .in = large.element});
    const std::size_t bytes = primitive->weights_bytes();
    float* const result = pass.add ? room() : to;
    void* const written = bytes == 0 ? result : ordered_gradients_.reserve(bytes);
    (*primitive)(large.data, small.data, written, nullptr, memory.scratch.reserve(primitive->scratch_bytes()));
    if (bytes > 0) primitive->restore(written, result);
    if (pass.add) best<VectorTable>().add(to, result, s.weights());
}

void Conv::announce(const Pass& pass) const {
    kernels::announce(pass.ready, layer_.weights, layer_.weights + shape().weights(), tail_.bias,
                      tail_.bias + tail_.channels);
}

void Conv::forward(const Pass& pass, const Memory& memory, View in, View out) {
    if (in.rows == 0) return;
    if (!layer_.transposed) return down(pass, memory, in, out, true);
    up(pass, memory, in, out);
    finish(pass, out);
}

void Conv::backward(const Pass& pass, const Memory& memory, View in, View delta, View below) {
    if (!pass.gradients.empty()) {
        if (in.rows > 0)
            weight_gradients(pass, memory, layer_.transposed ? delta : in, layer_.transposed ? in : delta);
        else
            clear(pass, layer_.weights, shape().weights());
        announce(pass);
    }
    if (!below || in.rows == 0) return;
    if (layer_.transposed)
        down(pass, memory, delta, below, false);
    else
        up(pass, memory, delta, below);
}

void Conv::tangent(const Pass& pass, const Memory& memory, View out, View delta, View direction, View moved) {
    if (direction.rows > 0)
        weight_gradients(pass, memory, layer_.transposed ? delta : direction, layer_.transposed ? direction : delta);
    else
        clear(pass, layer_.weights, shape().weights());
    clear(pass, tail_.bias, tail_.channels);
    announce(pass);
    if (!moved || direction.rows == 0) return;
    if (layer_.transposed)
        up(pass, memory, direction, moved);
    else
        down(pass, memory, direction, moved, false);
    multiply_by_slope(out, moved);
}

}  // namespace pyddl::kernels
