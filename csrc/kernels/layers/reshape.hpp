/// Reshape: the same values in another order, or in the same one. Data files hold colours as planes, one after another;
/// layers over pictures want the channels of a place next to each other.
#pragma once
#include "kernels/layers/whole.hpp"

namespace pyddl::kernels {

struct ReshapeLayer {
    Picture picture;
    enum class Order { kept, from_planes, to_planes } order = Order::kept;
};

class Reshape final : public WholeLayer {
  public:
    explicit Reshape(ReshapeLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;

  private:
    void move(View from, View to, bool back) const;

    ReshapeLayer layer_;
};

}  // namespace pyddl::kernels
