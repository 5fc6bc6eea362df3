/// A chain of dense layers: forward, gradient and evaluation, each in one call.
/// Letters: B rows, I inputs and O outputs of a layer. Matrices are row-major and contiguous; weights are (O,
/// I).
#pragma once
#include <cstdint>
#include <list>
#include <mutex>
#include <span>
#include <vector>

#include "kernels/activations.hpp"
#include "kernels/losses.hpp"
#include "kernels/matrix_view.hpp"
#include "kernels/product.hpp"
#include "kernels/ready.hpp"

namespace pyddl::kernels {

/// Where a layer's tensors lie in the flat vector, in floats.
struct DenseLayer {
    std::int64_t inputs;
    std::int64_t outputs;
    Activation activation;
    std::int64_t weights;
    std::int64_t bias;  ///< -1: none
};

/// Keeps oneDNN primitives by batch size and memory for activations, but no value from one call to the next.
/// Calls from several threads wait for each other. A steady step allocates nothing.
/// With Element::bfloat16, weights (unless they are given) and rows are rounded once per call and hidden activations
/// and deltas stored in bfloat16; products add up in float, and losses, sums and gradients are float. For batches of a
/// few rows (few_rows.hpp) all is float32: rounding the weights would take longer than it saves.
class DenseNetwork {
  public:
    /// @throws std::invalid_argument when two layers do not fit together, an offset is negative, or
    /// the processor lacks bfloat16
    DenseNetwork(std::vector<DenseLayer> layers, Element element);

    /// out := layers [first, last) of rows.
    void forward(std::span<const float> parameters, MatrixView<const float> rows, MatrixView<float> out,
                 std::int64_t first, std::int64_t last);

    /// Overwrites the layers' slices of `gradients` with the sum over rows; returns the sum of the losses.
    /// `ready` is told the range of each layer when it is final, last layer first. No rows at all: zeros.
    /// @param rounded the parameters in bfloat16, where someone has them: then weights are not rounded here. Or empty.
    double gradient(std::span<const float> parameters, std::span<float> gradients, MatrixView<const float> rows,
                    MatrixView<const float> targets, Loss loss, const Ready& ready,
                    std::span<const Bfloat16> rounded = {});

    LossSums evaluate(std::span<const float> parameters, MatrixView<const float> rows, MatrixView<const float> targets,
                      Loss loss);

    /// Floating-point operations of one gradient, per row: products only.
    std::int64_t flops() const;

    const std::vector<DenseLayer>& layers() const { return layers_; }

  private:
    /// The products of one layer for one batch size, each made when first used.
    struct LayerProducts {
        std::optional<Product> forward, forward_to_float, weight_gradient, input_gradient;
    };
    struct Shape {
        std::int64_t rows;
        int threads;
        std::vector<LayerProducts> layers;
    };

    Element element_for(std::int64_t rows) const;
    Shape& shape_for(std::int64_t rows);
    void run(std::optional<Product>& product, const ProductShape& shape, const void* a, const void* b,
             const float* bias, void* c);

    // T is what products read: float, or Bfloat16 from copies in scratch.
    template <class T>
    const T* converted(const float* from, std::int64_t size, Scratch& scratch);
    template <class T>
    void layer_forward(Shape& shape, std::size_t layer, const float* parameters, const T* weights, const T* rows,
                       void* out, Element out_element);
    template <class T>
    const T* weights_of(std::size_t layer, const float* parameters, const Bfloat16* rounded);
    template <class T>
    const T* hidden_forward(Shape& shape, const float* parameters, const Bfloat16* rounded, const float* rows,
                            std::size_t first, std::size_t last);
    template <class T>
    void forward_as(const float* parameters, MatrixView<const float> rows, float* out, std::size_t first,
                    std::size_t last);
    template <class T>
    double gradient_as(const float* parameters, float* gradients, MatrixView<const float> rows, const float* targets,
                       Loss loss, const Ready& ready, const Bfloat16* rounded);
    template <class T>
    T* activations(std::size_t layer, std::int64_t rows);

    void check_parameters(std::span<const float> parameters) const;
    void check(std::span<const float> parameters, MatrixView<const float> rows, MatrixView<const float> targets,
               Loss loss) const;

    std::vector<DenseLayer> layers_;
    Element element_;
    std::int64_t widest_ = 0;       ///< outputs of the widest layer
    std::int64_t end_ = 0;          ///< floats that a vector must have
    std::list<Shape> shapes_;       ///< the one used last comes first
    Scratch rows_;                  ///< the rows in bfloat16
    std::vector<Scratch> weights_;  ///< of each layer in bfloat16, where they are rounded here
    std::vector<Scratch> outputs_;  ///< of each layer but the last
    Scratch last_outputs_;          ///< in float
    Scratch deltas_[2];
    Scratch product_scratch_;
    std::mutex busy_;
};

}  // namespace pyddl::kernels
