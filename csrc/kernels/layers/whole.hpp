/// What layers share that every part of a split model holds whole: outputs are activation(values + bias of the
/// channel). Letters as in kernels/layer.hpp; C channels, P positions of an output: O = P C, channels next to each
/// other.
#pragma once
#include "kernels/layer.hpp"

namespace pyddl::kernels {

/// A picture of one row: (height, width, channels), the channels next to each other. Features have one position.
struct Picture {
    std::int64_t height = 1, width = 1, channels = 1;

    std::int64_t positions() const { return height * width; }
    std::int64_t size() const { return positions() * channels; }
    std::string text() const;
};

/// How many positions to lay side by side, so that loops over columns of a (B P / n, n C) matrix are long, and there
/// are some for each thread. A divisor of P.
std::int64_t folded(std::int64_t positions, std::int64_t channels);

class WholeLayer : public Layer {
  public:
    double loss(const Pass&, const Memory&, Loss, View out, const Targets&, View delta) override;
    void slope(const Pass&, const Memory&, View out, View above, View delta) override;
    std::unique_ptr<Primitives> primitives() const override { return std::make_unique<Primitives>(); }
    Activation activation() const override { return tail_.activation; }
    bool piecewise_linear() const override;
    bool reads_outputs() const override { return tail_.activation != Activation::linear; }

  protected:
    /// What comes after the layer's own work.
    struct Tail {
        std::int64_t channels = 1;
        std::int64_t bias = -1;  ///< its place in the parameters; -1: none
        Activation activation = Activation::linear;
    };
    WholeLayer(Sizes sizes, Tail tail) : Layer(std::move(sizes)), tail_(tail) {}

    /// values := activation(values)
    void activate(View values) const;
    /// values += bias, then the activation.
    void finish(const Pass&, View values);
    /// values (B, O) *= slopes at `out`.
    void multiply_by_slope(View out, View values) const;
    /// Without rows: gradients of `size` parameters from `begin` on become 0, unless they are added to.
    static void clear(const Pass&, std::int64_t begin, std::int64_t size);

    const Tail tail_;

  private:
    float* sums(const Pass&, std::int64_t columns);
    void fold(const Pass&, std::int64_t columns);

    Scratch sums_;
};

/// Calls f with null pointers of the elements' types: f(In*, Out*). Outputs are of the inputs' element, or float32.
template <class F>
auto with_elements(View in, View out, F f) {
    if (in.element == Element::float32) return f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
    if (out.element == Element::bfloat16) return f(static_cast<Bfloat16*>(nullptr), static_cast<Bfloat16*>(nullptr));
    return f(static_cast<Bfloat16*>(nullptr), static_cast<float*>(nullptr));
}

}  // namespace pyddl::kernels
