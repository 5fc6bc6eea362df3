/// What a layer is to a network: forward, backward and tangent passes over views, and what goes with a pass.
/// Letters: B rows of a pass, I inputs and O outputs of a layer, K parts of a model that several ranks hold together.
/// Matrices are row-major and contiguous.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/activations.hpp"
#include "kernels/element.hpp"
#include "kernels/losses.hpp"
#include "kernels/matrix_view.hpp"
#include "kernels/product.hpp"
#include "kernels/ready.hpp"

namespace pyddl::kernels {

/// A matrix in either element type. Owns nothing; who gets it as an input leaves it as it is.
struct View {
    void* data = nullptr;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    Element element = Element::float32;
    bool partial = false;  ///< of deltas: this part's share of a sum over all parts

    std::int64_t size() const { return rows * columns; }
    explicit operator bool() const { return data != nullptr; }
    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }
};

/// Keys of everything random in a pass; the rows' global numbers complete them.
struct Key {
    std::uint64_t seed = 0, step = 0, turn = 0;
};

/// `add(context, values, size)`: adds a vector over all workers of the step, in place. Collective. Null: one worker.
struct Sum {
    void (*add)(void* context, float* values, std::int64_t size) = nullptr;
    void* context = nullptr;

    void operator()(float* values, std::int64_t size) const {
        if (add) add(context, values, size);
    }
};

/// How the parts of a split model speak to each other; part k has columns [cuts[k], cuts[k + 1]). Collective.
/// A whole model has none.
struct Exchange {
    /// out (B, N) := the blocks (B, columns of a part) of all parts, side by side.
    void (*gather)(void* context, View block, std::span<const std::int64_t> cuts, View out) = nullptr;
    /// out (B, columns of this part) := the sum of these columns of all parts' `whole` (B, N), which is from `room`.
    void (*sum)(void* context, View whole, std::span<const std::int64_t> cuts, View out) = nullptr;
    /// Memory for the next `whole`.
    View (*room)(void* context, std::int64_t rows, std::int64_t columns) = nullptr;
    void* context = nullptr;

    explicit operator bool() const { return gather != nullptr; }
};

/// What goes with a pass through a network: whole vectors, of which each layer knows its slices, and hooks.
struct Pass {
    std::span<const float> parameters;
    std::span<float> gradients;         ///< empty: deltas are wanted only
    std::span<const Bfloat16> rounded;  ///< the parameters in bfloat16, where someone has them; or empty
    std::span<float> buffers;
    Key key;
    std::span<const std::int64_t> index;  ///< the rows' global numbers; or empty
    Ready ready;
    Sum sum;
    Exchange exchange;
    bool training = false;  ///< of the pass, or, going backward, of the pass that is kept; of frozen layers false
    bool sampling = false;  ///< layers that sample do so, though they are not training
    bool add = false;       ///< add to the gradients, in the place of overwriting them
    std::int64_t slot = 0;  ///< which of several passes in a turn
    std::int64_t call = 0;  ///< number of the network's call: what a layer has derived from parameters in one, it may
                            ///< keep
};

/// The targets of a loss: values for each output, or a label for each row.
struct Targets {
    MatrixView<const float> values;
    std::span<const std::int64_t> labels;
};

/// What a layer adds to the loss, and the Kullback-Leibler divergence that it is a part of.
struct OwnLoss {
    double loss = 0, kl = 0;
};

/// The primitives of one layer for one number of rows and threads.
struct Primitives {
    virtual ~Primitives() = default;
};

/// What a network lends a layer for a pass.
struct Memory {
    Primitives& primitives;
    std::array<Scratch, 3>& kept;  ///< this layer's own, untouched from a pass to its backward and tangent passes
    Scratch& scratch;              ///< of products

    /// Runs a product, which is made when first used.
    void run(std::optional<Product>& product, const ProductShape& shape, const void* a, const void* b,
             const float* bias, void* c) const {
        if (!product) product.emplace(shape);
        (*product)(a, b, bias, c, scratch.reserve(product->scratch_bytes()));
    }
};

/// Compiled from a declared value; keeps no value from one call of its network to the next. No rows at all are legal.
///
/// A backward pass calls `slope` (or, above all others, `loss`), then `backward`: from deltas of a layer's outputs to
/// deltas of its pre-activations, which are what a tangent pass needs again, and on to deltas of its inputs. A layer
/// that is cut computes some columns of its outputs; it gathers them where `out` is as wide as all, and takes its
/// columns of the deltas from above.
class Layer {
  public:
    virtual ~Layer() = default;
    Layer(const Layer&) = delete;
    Layer& operator=(const Layer&) = delete;

    /// out := this layer of `in`. `in` is of the pass's element, `out` of the same or of float32.
    virtual void forward(const Pass&, const Memory&, View in, View out) = 0;

    /// The sum of the losses of the outputs (float32), and deltas of the pre-activations (B, columns). Destroys `out`.
    virtual double loss(const Pass&, const Memory&, Loss, View out, const Targets&, View delta) = 0;

    /// delta (B, columns), of pre-activations, from `above`, of outputs (B, O).
    /// @param out as `forward` left it; no data where `reads_outputs` is false
    /// @param above in float32, or the same memory as `delta`
    virtual void slope(const Pass&, const Memory&, View out, View above, View delta) = 0;

    /// Gradients of the parameters, announced, and deltas of the inputs in `below`, unless that has no data.
    virtual void backward(const Pass&, const Memory&, View in, View delta, View below) = 0;

    /// The gradient of the outputs' derivative along `direction`, for the deltas of the pass's backward, and
    /// moved (B, O) := derivative of the outputs along `direction` (B, I), unless that has no data.
    /// Only where the layer is piecewise linear.
    virtual void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) = 0;

    /// What the layer itself adds to the loss for `in`: its gradient is part of `backward`.
    virtual OwnLoss own_loss(const Pass&, const Memory&, View) { return {}; }
    virtual bool has_own_loss() const { return false; }
    /// Whether that has a Kullback-Leibler divergence of a code, which is a score.
    virtual bool has_divergence() const { return false; }

    virtual std::unique_ptr<Primitives> primitives() const = 0;
    virtual Activation activation() const { return Activation::linear; }
    virtual bool piecewise_linear() const = 0;
    virtual bool reads_outputs() const = 0;
    /// Whether bfloat16 is faster also for few rows: see few_rows.hpp.
    virtual bool rounds_few_rows() const { return false; }

    const std::int64_t inputs, outputs;
    const std::int64_t parameters_end;     ///< floats that a vector of parameters must have
    const std::int64_t buffers_end;        ///< and of buffers
    const std::int64_t flops;              ///< of the products of a forward pass, per row
    const std::vector<std::int64_t> cuts;  ///< first output of every part, and the number of outputs; or empty: whole
    const std::int64_t part;

    bool is_cut() const { return !cuts.empty(); }
    std::int64_t first_column() const { return is_cut() ? cuts[part] : 0; }
    /// Columns of the outputs that are computed here.
    std::int64_t columns() const { return is_cut() ? cuts[part + 1] - cuts[part] : outputs; }

  protected:
    struct Sizes {
        std::int64_t inputs = 1, outputs = 1, parameters_end = 0, buffers_end = 0, flops = 0;
        std::vector<std::int64_t> cuts = {};
        std::int64_t part = 0;
    };
    explicit Layer(Sizes s)
        : inputs(s.inputs),
          outputs(s.outputs),
          parameters_end(s.parameters_end),
          buffers_end(s.buffers_end),
          flops(s.flops),
          cuts(std::move(s.cuts)),
          part(s.part) {}
};

/// Announces a layer's two tensors, [begin, end) and [more, more_end): as one range where the second follows the first.
/// more = -1: there is no second.
void announce(const Ready&, std::int64_t begin, std::int64_t end, std::int64_t more, std::int64_t more_end);

/// to := from, in either element.
void copy(View from, View to);

/// A matrix in float: itself, or a copy in `scratch`.
const float* in_float(View, Scratch& scratch);

}  // namespace pyddl::kernels
