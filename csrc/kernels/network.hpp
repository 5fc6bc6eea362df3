/// A chain of layers, compiled once: forward, gradient, evaluation, backward from given deltas, and tangents.
/// Letters as in kernels/layer.hpp.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/layer.hpp"
#include "kernels/matrix_view.hpp"

namespace pyddl::kernels {

/// Keeps oneDNN primitives by number of rows, memory for activations, and the passes that it is asked to keep, but no
/// parameter from one call to the next. Calls from several threads wait for each other. A steady step allocates
/// nothing, also where row counts alternate.
/// With Element::bfloat16, rows are rounded once per call, and hidden activations and deltas stored in bfloat16; the
/// last outputs are float. For batches of a few rows (few_rows.hpp) all is float32 unless a layer is a convolution:
/// rounding the weights would take longer than it saves.
class Network {
  public:
    /// @throws std::invalid_argument when there is no layer, two do not fit together, or the processor lacks bfloat16
    Network(std::vector<std::unique_ptr<Layer>> layers, Element element);

    /// out := layers [first, last) of rows. -1 for last: all.
    /// `pass.training` says how layers behave that learn otherwise than they serve, as their backward pass does.
    /// @param slot where the pass is kept for `backward` and `tangent`, which need `rows` once more, unchanged; or -1
    void forward(Pass pass, MatrixView<const float> rows, MatrixView<float> out, std::int64_t first = 0,
                 std::int64_t last = -1, std::int64_t slot = -1);

    /// Gradients of layers [first, end), sums over rows; returns the sum of the losses. Slices of layers below
    /// `first` are left alone. `pass.ready` is told the range of each layer when it is final, last layer first.
    /// Where the model is split, parts other than the first return 0 for what all of them compute alike.
    /// @param below out: deltas of what entered layer `first`, or no data
    double gradient(Pass pass, MatrixView<const float> rows, const Targets& targets, Loss loss, std::int64_t first = 0,
                    MatrixView<float> below = {});

    LossSums evaluate(Pass pass, MatrixView<const float> rows, const Targets& targets, Loss loss);

    /// Gradients of layers [first, last of the pass) from deltas (B, outputs) of a kept pass.
    /// @param below out: deltas of what entered layer `first`, or no data   @param first -1: that of the pass
    void backward(Pass pass, MatrixView<const float> rows, MatrixView<const float> deltas, MatrixView<float> below,
                  std::int64_t slot = 0, std::int64_t first = -1);

    /// For a kept pass that has gone backward from deltas d: the gradient of sum_b d_b' (dy_b / dx_b) u_b with respect
    /// to the parameters, u being `directions` (B, inputs of the pass). Piecewise linear layers only, whose slopes do
    /// not depend on the parameters but at kinks: then it is t_{l-1}' delta_l for weights, 0 for biases, with t_0 = u
    /// and t_l = t_{l-1} W_l' times the pass's slopes.
    /// Cost: a forward pass and a product of weight gradients for each layer.
    void tangent(Pass pass, MatrixView<const float> rows, MatrixView<const float> directions, std::int64_t slot = 0);

    /// Whether a layer adds a divergence to the loss: see LossSums::kl.
    bool has_divergence() const;

    /// Floating-point operations of one gradient, per row: products only.
    std::int64_t flops() const;

    static constexpr std::int64_t slots = 16;

  private:
    /// The primitives of all layers.
    struct Shape {
        std::int64_t rows;
        int threads;
        std::vector<std::unique_ptr<Primitives>> layers;
    };
    /// What a pass leaves behind.
    struct Kept {
        bool whole = false;  ///< the pass has ended well, and may go backward
        bool training = false;
        std::size_t first = 0, last = 0, trained = 0;  ///< layers below `trained` are frozen
        MatrixView<const float> given;                 ///< the rows
        Element element = Element::float32;
        std::int64_t settled = -1;  ///< the first of the layers whose deltas are kept, or -1: none
        Scratch rows;               ///< in bfloat16
        std::vector<Scratch> outputs, deltas;
        std::vector<std::array<Scratch, 3>> layers;
    };

    Element element_for(std::int64_t rows) const;
    Shape& shape_for(std::int64_t rows);
    Memory memory_of(std::size_t layer, Shape& shape, Kept& kept);
    Kept& kept_in(std::int64_t slot);
    Kept& found_in(std::int64_t slot, MatrixView<const float> rows);
    View converted(View from, Element element, Scratch& scratch);
    View in_of(std::size_t layer, Kept& kept);
    View output_of(std::size_t layer, Kept& kept);
    View read_output_of(std::size_t layer, Kept& kept);
    View delta_of(std::size_t layer, Kept& kept, bool keep);

    Kept& begin(Pass& pass, MatrixView<const float> rows, std::size_t first, std::size_t last, std::int64_t slot,
                std::size_t trained);
    static Pass of_layer(const Pass& pass, std::size_t layer, const Kept& kept);
    void run(const Pass& pass, std::size_t layer, Shape& shape, Kept& kept, View out);
    OwnLoss own_losses(const Pass& pass, Shape& shape, Kept& kept);
    void hidden_forward(const Pass& pass, Shape& shape, Kept& kept);
    View outputs_for(const Pass& pass, Shape& shape, Kept& kept, Loss loss);
    Targets targets_for(View outputs, const Targets& targets);
    bool reports(Loss loss) const;
    void complete(const Pass& pass, const Layer& layer, View partial, View out);
    void descend(const Pass& pass, Shape& shape, Kept& kept, View delta, std::size_t first, View below, bool keep);

    static void check_first(std::int64_t first, std::size_t least, std::size_t end);
    void check_vectors(const Pass& pass, std::int64_t rows) const;
    void check_targets(MatrixView<const float> rows, const Targets& targets, Loss loss) const;

    std::vector<std::unique_ptr<Layer>> layers_;
    Element element_;
    std::int64_t widest_ = 0;  ///< outputs of the widest layer
    std::int64_t end_ = 0;     ///< floats that a vector must have
    std::int64_t calls_ = 0;
    std::list<Shape> shapes_;  ///< the one used last comes first
    std::vector<Kept> kept_;   ///< first what no slot keeps, then the slots
    Scratch last_outputs_;     ///< in float
    Scratch targets_;          ///< columns of this part
    Scratch deltas_[2];
    Scratch above_;    ///< deltas of a whole layer for a cut one, and the other way round
    Scratch partial_;  ///< summed columns, before they are gathered
    std::vector<std::int64_t> cuts_;
    Scratch direction_;  ///< in bfloat16
    Scratch moved_[2];
    Scratch product_scratch_;
    std::mutex busy_;
};

}  // namespace pyddl::kernels
