#include "kernels/layers/pooling.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {

Layer::Sizes Pool::sizes_of(const PoolLayer& l) {
    const Picture& p = l.picture;
    if (l.size < 1 || l.size > 15 || l.size > p.height || l.size > p.width)
        throw std::invalid_argument("a pool has windows of " + std::to_string(l.size) + " in pictures of " + p.text() +
                                    "; expected windows of 1 to 15, no larger than the picture");
    return {.inputs = p.size(), .outputs = p.height / l.size * (p.width / l.size) * p.channels};
}

Pool::Pool(PoolLayer layer) : WholeLayer(sizes_of(layer), {}), layer_(layer) {}

Window Pool::window(std::int64_t rows) const {
    const auto& [p, size, largest] = layer_;
    return {rows, p.height, p.width, p.channels, p.height / size, p.width / size, size, size, 0};
}

void Pool::forward(const Pass&, const Memory& memory, View in, View out) {
    if (in.rows == 0) return;
    auto* const place = layer_.largest ? static_cast<std::uint8_t*>(memory.kept[0].reserve(out.size())) : nullptr;
    with_elements(in, out, [&]<class In, class Out>(In*, Out*) {
        const auto& table = best<PictureTable<In, Out>>();
        if (layer_.largest)
            table.largest(in.as<const In>(), out.as<Out>(), place, window(in.rows));
        else
            table.mean(in.as<const In>(), out.as<Out>(), window(in.rows));
    });
}

void Pool::backward(const Pass&, const Memory& memory, View in, View delta, View below) {
    if (!below || in.rows == 0) return;
    const auto* const place = static_cast<const std::uint8_t*>(memory.kept[0].data());
    with_elements(delta, below, [&]<class In, class Out>(In*, Out*) {
        const auto& table = best<PictureTable<In, Out>>();
        if (layer_.largest)
            table.largest_backward(delta.as<const In>(), place, below.as<Out>(), window(in.rows));
        else
            table.mean_backward(delta.as<const In>(), below.as<Out>(), window(in.rows));
    });
}

void Pool::tangent(const Pass&, const Memory& memory, View, View, View direction, View moved) {
    if (!moved || direction.rows == 0) return;
    const auto* const place = static_cast<const std::uint8_t*>(memory.kept[0].data());
    with_elements(direction, moved, [&]<class In, class Out>(In*, Out*) {
        const auto& table = best<PictureTable<In, Out>>();
        if (layer_.largest)
            table.largest_tangent(direction.as<const In>(), place, moved.as<Out>(), window(direction.rows));
        else
            table.mean(direction.as<const In>(), moved.as<Out>(), window(direction.rows));
    });
}

Layer::Sizes Resize::sizes_of(const ResizeLayer& l) {
    if (l.factor < 1)
        throw std::invalid_argument("a resize has factor " + std::to_string(l.factor) + "; expected 1 or more");
    return {.inputs = l.picture.size(), .outputs = l.picture.size() * l.factor * l.factor};
}

Resize::Resize(ResizeLayer layer)
    : WholeLayer(sizes_of(layer), {}),
      layer_(layer),
      rows_(taps(layer.picture.height)),
      columns_(taps(layer.picture.width)) {}

std::vector<Tap> Resize::taps(std::int64_t size) const {
    std::vector<Tap> taps;
    if (!layer_.bilinear) return taps;
    for (std::int64_t i = 0; i < size * layer_.factor; ++i) {
        const double at = std::max((static_cast<double>(i) + 0.5) / static_cast<double>(layer_.factor) - 0.5, 0.0);
        const auto low = static_cast<std::int64_t>(at);
        if (low + 1 < size)
            taps.push_back({low, low + 1, static_cast<float>(at - static_cast<double>(low))});
        else
            taps.push_back({size - 1, size - 1, 0.0f});
    }
    return taps;
}

Window Resize::window(std::int64_t rows) const {
    const auto& [p, factor, bilinear] = layer_;
    return {rows, p.height * factor, p.width * factor, p.channels, p.height, p.width, factor, factor, 0};
}

void Resize::forward(const Pass&, const Memory& memory, View in, View out) {
    if (!out || in.rows == 0) return;
    const Window x = window(in.rows);
    auto* const scratch =
        static_cast<float*>(memory.scratch.reserve(interpolation_scratch(x, threads()) * sizeof(float)));
    with_elements(in, out, [&]<class In, class Out>(In*, Out*) {
        best<PictureTable<In, Out>>().interpolate(in.as<const In>(), out.as<Out>(), x, of_rows(), columns_.data(),
                                                  scratch);
    });
}

void Resize::backward(const Pass&, const Memory& memory, View in, View delta, View below) {
    if (!below || in.rows == 0) return;
    const Window x = window(in.rows);
    auto* const scratch =
        static_cast<float*>(memory.scratch.reserve(interpolation_scratch(x, threads()) * sizeof(float)));
    with_elements(delta, below, [&]<class In, class Out>(In*, Out*) {
        best<PictureTable<In, Out>>().interpolate_backward(delta.as<const In>(), below.as<Out>(), x, of_rows(),
                                                           columns_.data(), scratch);
    });
}

void Resize::tangent(const Pass& pass, const Memory& memory, View, View, View direction, View moved) {
    forward(pass, memory, direction, moved);
}

}  // namespace pyddl::kernels
