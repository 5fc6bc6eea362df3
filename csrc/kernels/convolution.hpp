/// Convolutions on oneDNN: primitives and memory objects made once, executed many times with other pointers.
///
/// Letters as in layers/picture_loops.hpp: a convolution leads from a larger picture (H, W) to a smaller one (h, w),
/// also where both are of one size. Activations are (B, height, width, channels) always; weights in the flat vector are
/// (k, k, channels of the larger, channels of the smaller picture), in primitives what oneDNN likes best. Measured
/// (batch 64, Zen 4): activations that oneDNN orders as it likes gain 5 % in some products and lose more in all other
/// passes, and some of its kernels then fall back to plain loops.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/activations.hpp"
#include "kernels/element.hpp"
#include "kernels/layers/whole.hpp"

namespace pyddl::kernels {

struct ConvolutionShape {
    Picture large, small;
    std::int64_t kernel = 1, stride = 1, padding = 0;

    std::int64_t weights() const { return kernel * kernel * large.channels * small.channels; }
    std::int64_t flops() const { return 2 * small.positions() * weights(); }
};

class Convolution {
  public:
    /// down: small := activation(large * weights + bias). up, its adjoint: large := small * weights^T.
    /// gradient: weights := large^T * small.
    enum class Kind { down, up, gradient };
    struct Options {
        Kind kind;
        std::int64_t rows;
        Element in = Element::float32;   ///< of what is read
        Element out = Element::float32;  ///< of what is written; of gradients float32
        bool bias = false;
        Activation activation = Activation::linear;  ///< only where fuses_with_product
    };
    Convolution(const ConvolutionShape& shape, const Options& options);
    ~Convolution();
    Convolution(Convolution&&) noexcept;
    Convolution& operator=(Convolution&&) noexcept;

    std::size_t scratch_bytes() const;

    /// Bytes of the weights as the primitive orders them; 0: as they lie in the flat vector.
    std::size_t weights_bytes() const;
    /// As the primitive orders them, from the flat vector's.
    void order(const float* weights, void* to) const;
    /// The other way round, of gradients.
    void restore(const void* gradients, float* to) const;

    void operator()(const void* large, const void* small, const void* weights, const float* bias, void* scratch) const;

  private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace pyddl::kernels
