/// Dense layer: outputs = activation(inputs weights^T + bias). Letters as in kernels/layer.hpp; weights are (O, I).
/// Transposed: outputs = activation(inputs weights + bias) with the weights (I, O) of another layer of the network,
/// which is `shared` then: the transposed one, above it, writes their gradient, and it adds its own.
/// Where it is cut, this part holds rows [cuts[part], cuts[part + 1]) of the weights, and these elements of the bias.
#pragma once
#include "kernels/layer.hpp"

namespace pyddl::kernels {

/// Where a layer's tensors lie in the flat vector, in floats.
struct DenseLayer {
    std::int64_t inputs;
    std::int64_t outputs;  ///< of all parts
    Activation activation;
    std::int64_t weights;
    std::int64_t bias;                    ///< -1: none
    std::vector<std::int64_t> cuts = {};  ///< see Layer::cuts
    std::int64_t part = 0;
    bool transposed = false;  ///< then whole
    bool shared = false;
};

/// Bias and activation are fused with the product where oneDNN can, slope and bias gradient with each other.
/// With bfloat16, weights (unless they are given) are rounded once per call; products add up in float, and sums and
/// gradients are float. Exchanges of a cut layer are float32. Cost per row: 2 I O flop forward, twice that backward.
class Dense final : public Layer {
  public:
    /// @throws std::invalid_argument when a size or an offset is out of range
    explicit Dense(DenseLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    double loss(const Pass&, const Memory&, Loss, View out, const Targets&, View delta) override;
    void slope(const Pass&, const Memory&, View out, View above, View delta) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;
    std::unique_ptr<Primitives> primitives() const override;
    Activation activation() const override { return layer_.activation; }
    bool piecewise_linear() const override;
    bool reads_outputs() const override { return !is_cut() && layer_.activation != Activation::linear; }

  private:
    static Sizes sizes_of(const DenseLayer&);
    const void* weights(const Pass&, Element);
    const float* bias(const Pass&) const;
    float* bias_gradients(const Pass&);
    void add_bias_gradients(const Pass&);
    void multiply(const Memory&, std::optional<Product>&, View in, const void* weights, const float* bias, Activation,
                  View out) const;
    View block(const Memory&, std::int64_t rows) const;
    void gather(const Pass&, View block, View out);
    void weight_gradients(const Pass&, const Memory&, View in, View delta) const;
    void announce(const Ready&) const;

    DenseLayer layer_;
    Scratch rounded_;                ///< the weights in bfloat16, where they are rounded here
    std::int64_t rounded_call_ = 0;  ///< in which call that was
    Scratch bias_gradients_;         ///< before they are added
    Scratch columns_;                ///< float32 on the way to or from the other parts
};

}  // namespace pyddl::kernels
