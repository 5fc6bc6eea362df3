#include "kernels/layers/reshape.hpp"

#include "kernels/layers/picture_loops.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {

Reshape::Reshape(ReshapeLayer layer)
    : WholeLayer({.inputs = layer.picture.size(), .outputs = layer.picture.size()}, {}), layer_(layer) {}

void Reshape::move(View from, View to, bool back) const {
    using Order = ReshapeLayer::Order;
    const Picture& p = layer_.picture;
    if (!to || from.rows == 0) return;
    if (layer_.order == Order::kept || p.channels == 1 || p.positions() == 1) return copy(from, to);
    const bool to_planes = (layer_.order == Order::to_planes) != back;
    with_elements(from, to, [&]<class In, class Out>(In*, Out*) {
        best<PictureTable<In, Out>>().transpose(from.as<const In>(), to.as<Out>(), from.rows,
                                                to_planes ? p.positions() : p.channels,
                                                to_planes ? p.channels : p.positions());
    });
}

void Reshape::forward(const Pass&, const Memory&, View in, View out) { move(in, out, false); }
void Reshape::backward(const Pass&, const Memory&, View, View delta, View below) { move(delta, below, true); }
void Reshape::tangent(const Pass&, const Memory&, View, View, View direction, View moved) {
    move(direction, moved, false);
}

}  // namespace pyddl::kernels
