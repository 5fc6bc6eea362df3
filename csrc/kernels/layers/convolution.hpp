/// Convolution, and its adjoint, the transposed convolution. Letters as in kernels/convolution.hpp.
/// Weights are (k, k, channels of the larger, channels of the smaller picture): what is usual for a convolution, and
/// for a transposed one those of the convolution that it is the adjoint of. A bias has one element for each output
/// channel.
#pragma once
#include "kernels/convolution.hpp"
#include "kernels/layers/picture_loops.hpp"
#include "kernels/winograd.hpp"

namespace pyddl::kernels {

struct ConvLayer {
    ConvolutionShape shape;
    bool transposed = false;  ///< from the smaller picture to the larger
    bool winograd = true;     ///< where it pays: see kernels/winograd.hpp
    Activation activation = Activation::linear;
    std::int64_t weights = 0;
    std::int64_t bias = -1;  ///< -1: none
};

/// Bias and activation are fused with a convolution where oneDNN can; never with a transposed one, whose kernels become
/// several times slower by it. Where one side has few channels, of which oneDNN computes sixteen, that side comes from
/// a matrix product and a loop over windows.
class Conv final : public WholeLayer {
  public:
    /// @throws std::invalid_argument when the two pictures do not belong to one convolution, or an offset is negative
    explicit Conv(ConvLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;
    std::unique_ptr<Primitives> primitives() const override;
    bool rounds_few_rows() const override { return true; }

  private:
    static Sizes sizes_of(const ConvLayer&);
    /// Weights in a primitive's order: made once per call.
    struct Ordered {
        Scratch memory;
        std::int64_t call = 0;
        const void* of = nullptr;
    };
    bool takes_winograd(Element element, std::int64_t rows) const;
    const float* transformed(const Pass&, const Winograd&, Ordered&) const;
    float* room_of(const Winograd&);
    const void* ordered(const Pass&, const Convolution&, Ordered&) const;
    const void* matrix_of_weights(const Pass&, Element, bool channels_first);
    Window window(std::int64_t rows) const;
    View products(std::int64_t rows, std::int64_t columns);
    void down(const Pass&, const Memory&, View large, View small, bool whole);
    void up(const Pass&, const Memory&, View small, View large);
    void weight_gradients(const Pass&, const Memory&, View large, View small);
    void announce(const Pass&) const;

    bool few_small() const { return shape().small.channels <= few_channels && shape().stride == 1; }
    bool few_large() const { return shape().large.channels <= few_channels; }
    const ConvolutionShape& shape() const { return layer_.shape; }
    static constexpr std::int64_t few_channels = 3;

    ConvLayer layer_;
    Ordered down_, up_;
    Scratch matrix_, matrix_in_float_;  ///< weights of a matrix product
    Scratch products_;                  ///< of it
    Scratch spread_;
    Scratch gradients_, ordered_gradients_;
    Scratch room_;  ///< of Winograd's tiles
};

}  // namespace pyddl::kernels
