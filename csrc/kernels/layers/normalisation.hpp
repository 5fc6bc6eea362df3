/// Batch and layer normalisation, (x - mean) / sqrt(variance + epsilon) * scale + shift, then an activation.
/// Sources: Ioffe, Szegedy (2015), arXiv:1502.03167; Ba, Kiros, Hinton (2016), arXiv:1607.06450.
#pragma once
#include <string>

#include "kernels/layers/whole.hpp"

namespace pyddl::kernels {

struct BatchNormLayer {
    Picture picture;
    std::string name;  ///< for errors
    Activation activation = Activation::linear;
    float decay = 0.9f;  ///< of the running sums, in each training pass
    float epsilon = 1e-5f;
    bool synchronised = false;         ///< statistics are those of all workers' rows, by Pass::sum
    std::int64_t scale, shift;         ///< places in the parameters
    std::int64_t sums, squares, rows;  ///< places in the buffers
};

/// Mean and variance of each channel: of all rows and places when training, else of the running sums. A training pass
/// moves these: s := decay s + the pass's sum, for values, squares and their number, so that means and variances are
/// quotients, and workers' sums may be added up. With nothing summed yet: mean 0, variance 1.
/// Synchronised, every worker moves its own by an equal share of the sums of all: they stay alike on all workers, and
/// together are those of one process.
class BatchNorm final : public WholeLayer {
  public:
    explicit BatchNorm(BatchNormLayer layer);

    /// @throws std::invalid_argument when training on one value per channel
    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;
    bool piecewise_linear() const override { return false; }

  private:
    static Sizes sizes_of(const BatchNormLayer&);
    void measure(const Pass&, View in, float* kept);
    void recall(const Pass&, float* kept) const;

    BatchNormLayer layer_;
    Scratch doubles_, floats_, exchanged_;
};

struct LayerNormLayer {
    Picture picture;
    Activation activation = Activation::linear;
    float epsilon = 1e-5f;
    std::int64_t scale, shift;
};

/// Mean and variance of each row, of all its values; scale and shift by channel.
class LayerNorm final : public WholeLayer {
  public:
    explicit LayerNorm(LayerNormLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;
    bool piecewise_linear() const override { return false; }

  private:
    LayerNormLayer layer_;
    Scratch sums_;
};

}  // namespace pyddl::kernels
