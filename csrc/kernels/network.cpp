#include "kernels/network.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/check.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

constexpr std::size_t most_shapes = 64;

View view(MatrixView<const float> m) { return {const_cast<float*>(m.data), m.rows, m.columns}; }
View view(MatrixView<float> m) { return {m.data, m.rows, m.columns}; }

std::string name_of(std::size_t layer) { return "layers[" + std::to_string(layer) + "]"; }

/// Losses that are sums over columns, each of which can be computed by the part that has it.
constexpr bool is_sum_over_columns(Loss loss) { return loss != Loss::softmax; }

}  // namespace

Network::Network(std::vector<std::unique_ptr<Layer>> layers, Element element)
    : layers_(std::move(layers)), element_(element), kept_(1) {
    if (element_ == Element::bfloat16 && !has_bfloat16())
        throw std::invalid_argument(
            "dtype is 'bfloat16', but this processor has neither AVX512_BF16 nor AMX; use float32");
    if (layers_.empty()) throw std::invalid_argument("layers is empty; expected at least one layer");
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        const Layer& layer = *layers_[l];
        if (l > 0 && layer.inputs != layers_[l - 1]->outputs)
            throw std::invalid_argument(name_of(l) + " has " + std::to_string(layer.inputs) + " inputs; expected " +
                                        std::to_string(layers_[l - 1]->outputs) + ", the outputs of the layer before");
        widest_ = std::max(widest_, layer.outputs);
        end_ = std::max(end_, layer.parameters_end);
    }
}

bool Network::has_divergence() const {
    return std::any_of(layers_.begin(), layers_.end(), [](const auto& layer) { return layer->has_divergence(); });
}

std::int64_t Network::flops() const {
    std::int64_t flops = 0;
    for (std::size_t l = 0; l < layers_.size(); ++l) flops += (l == 0 ? 2 : 3) * layers_[l]->flops;
    return flops;
}

// ---- checks

void Network::check_vectors(const Pass& pass, std::int64_t rows) const {
    const std::int64_t size = std::ssize(pass.parameters);
    if (size < end_)
        throw std::invalid_argument("parameters has " + std::to_string(size) + " elements; expected at least " +
                                    std::to_string(end_));
    for (std::size_t l = 0; l < layers_.size(); ++l)
        if (std::ssize(pass.buffers) < layers_[l]->buffers_end)
            throw std::invalid_argument("buffers has " + std::to_string(pass.buffers.size()) + " elements; " +
                                        name_of(l) + " expects at least " + std::to_string(layers_[l]->buffers_end));
    if (!pass.gradients.empty()) check_size("gradients", pass.gradients, size);
    if (!pass.rounded.empty()) check_size("rounded", pass.rounded, size);
    for (std::size_t l = 0; l < layers_.size(); ++l)
        if (layers_[l]->is_cut() && rows > 0 && !pass.exchange)
            throw std::invalid_argument(name_of(l) + " is part " + std::to_string(layers_[l]->part) +
                                        " of a split one; expected a group of the ranks that hold the others");
}

void Network::check_targets(MatrixView<const float> rows, const Targets& targets, Loss loss) const {
    const Layer& last = *layers_.back();
    check_shape("rows", rows, rows.rows, layers_.front()->inputs);
    if (loss != Loss::squared_error && last.activation() != Activation::linear)
        throw std::invalid_argument("loss is '" + std::string(loss_names[static_cast<int>(loss)]) +
                                    "', which takes logits, but the last layer's activation is '" +
                                    std::string(activation_names[static_cast<int>(last.activation())]) +
                                    "'; expected linear");
    if (loss == Loss::softmax)
        check_labels(targets.labels, rows.rows, last.outputs);
    else
        check_shape("targets", targets.values, rows.rows, last.outputs);
}

void Network::check_first(std::int64_t first, std::size_t least, std::size_t end) {
    if (first < static_cast<std::int64_t>(least) || first >= static_cast<std::int64_t>(end))
        throw std::invalid_argument("first is " + std::to_string(first) + "; expected " + std::to_string(least) +
                                    " to " + std::to_string(end - 1));
}

// ---- memory

Element Network::element_for(std::int64_t rows) const {
    const auto rounds = [](const auto& layer) { return layer->rounds_few_rows(); };
    return rows <= few_rows && std::none_of(layers_.begin(), layers_.end(), rounds) ? Element::float32 : element_;
}

Network::Shape& Network::shape_for(std::int64_t rows) {
    const int n = threads();
    const auto found =
        std::find_if(shapes_.begin(), shapes_.end(), [&](const Shape& s) { return s.rows == rows && s.threads == n; });
    if (found != shapes_.end()) {
        shapes_.splice(shapes_.begin(), shapes_, found);
        return shapes_.front();
    }
    if (shapes_.size() >= most_shapes) shapes_.pop_back();
    shapes_.push_front({rows, n, {}});
    for (const auto& layer : layers_) shapes_.front().layers.push_back(layer->primitives());
    return shapes_.front();
}

Memory Network::memory_of(std::size_t l, Shape& shape, Kept& kept) {
    return {*shape.layers[l], kept.layers[l], product_scratch_};
}

/// Where a pass is kept: in a slot, or for the call alone.
Network::Kept& Network::kept_in(std::int64_t slot) {
    if (slot < -1 || slot >= slots)
        throw std::invalid_argument("slot is " + std::to_string(slot) + "; expected 0 to " + std::to_string(slots - 1));
    const auto place = static_cast<std::size_t>(slot + 1);
    if (place >= kept_.size()) kept_.resize(place + 1);
    Kept& kept = kept_[place];
    if (kept.layers.empty()) {
        kept.outputs.resize(layers_.size());
        kept.deltas.resize(layers_.size());
        kept.layers.resize(layers_.size());
    }
    return kept;
}

Network::Kept& Network::found_in(std::int64_t slot, MatrixView<const float> rows) {
    if (slot < 0 || slot + 1 >= std::ssize(kept_) || !kept_[slot + 1].whole)
        throw std::invalid_argument("slot is " + std::to_string(slot) +
                                    ", which keeps no pass; expected one that forward was given");
    Kept& kept = kept_[slot + 1];
    if (rows.data != kept.given.data || rows.rows != kept.given.rows || rows.columns != kept.given.columns)
        throw std::invalid_argument("rows are not those of the pass that slot " + std::to_string(slot) + " keeps");
    return kept;
}

/// As `element`: itself, or a copy in `scratch`.
View Network::converted(View from, Element element, Scratch& scratch) {
    if (element == Element::float32) return from;
    auto* to = static_cast<Bfloat16*>(scratch.reserve(from.size() * sizeof(Bfloat16)));
    best<ConversionTable>().to_bfloat16(from.as<const float>(), to, from.size());
    return {to, from.rows, from.columns, element};
}

/// Begins a pass of layers [first, last), of which those from `trained` on are not frozen.
Network::Kept& Network::begin(Pass& pass, MatrixView<const float> rows, std::size_t first, std::size_t last,
                              std::int64_t slot, std::size_t trained) {
    pass.call = ++calls_;
    pass.slot = std::max<std::int64_t>(slot, 0);
    Kept& kept = kept_in(slot);
    kept.whole = false;
    kept.first = first;
    kept.last = last;
    kept.trained = trained;
    kept.training = pass.training;
    kept.settled = -1;
    kept.given = rows;
    kept.element = element_for(rows.rows);
    converted(view(rows), kept.element, kept.rows);
    return kept;
}

View Network::in_of(std::size_t l, Kept& kept) {
    if (l > kept.first) return output_of(l - 1, kept);
    View rows = view(kept.given);
    if (kept.element == Element::bfloat16) rows.data = kept.rows.data();
    rows.element = kept.element;
    return rows;
}

View Network::output_of(std::size_t l, Kept& kept) {
    const std::int64_t columns = layers_[l]->outputs;
    return {kept.outputs[l].reserve(kept.given.rows * columns * bytes_of(kept.element)), kept.given.rows, columns,
            kept.element};
}

/// The same, or no data where the layer does not read it again.
View Network::read_output_of(std::size_t l, Kept& kept) {
    return layers_[l]->reads_outputs() ? output_of(l, kept) : View{};
}

/// Room for the deltas of a layer's pre-activations: its own, where they are kept; else two take turns.
View Network::delta_of(std::size_t l, Kept& kept, bool keep) {
    const std::int64_t columns = layers_[l]->columns(), each = kept.given.rows * bytes_of(kept.element);
    void* data = keep ? kept.deltas[l].reserve(columns * each) : deltas_[l % 2].reserve(widest_ * each);
    return {data, kept.given.rows, columns, kept.element};
}

// ---- passes

/// The same for one layer, which trains where the pass does, unless it is frozen.
Pass Network::of_layer(const Pass& pass, std::size_t l, const Kept& kept) {
    Pass own = pass;
    own.training = kept.training && l >= kept.trained;
    return own;
}

void Network::run(const Pass& pass, std::size_t l, Shape& shape, Kept& kept, View out) {
    layers_[l]->forward(of_layer(pass, l, kept), memory_of(l, shape, kept), in_of(l, kept), out);
}

/// Runs all layers of a pass but the last.
void Network::hidden_forward(const Pass& pass, Shape& shape, Kept& kept) {
    for (std::size_t l = kept.first; l + 1 < kept.last; ++l) run(pass, l, shape, kept, output_of(l, kept));
}

OwnLoss Network::own_losses(const Pass& pass, Shape& shape, Kept& kept) {
    OwnLoss sum;
    if (!reports(Loss::softmax)) return sum;
    for (std::size_t l = kept.first; l < kept.last; ++l) {
        if (!layers_[l]->has_own_loss()) continue;
        const OwnLoss own = layers_[l]->own_loss(of_layer(pass, l, kept), memory_of(l, shape, kept), in_of(l, kept));
        sum.loss += own.loss;
        sum.kl += own.kl;
    }
    return sum;
}

/// Runs all layers. The result is in float, and those columns only that this part's share of the loss is about.
View Network::outputs_for(const Pass& pass, Shape& shape, Kept& kept, Loss loss) {
    hidden_forward(pass, shape, kept);
    const std::size_t l = layers_.size() - 1;
    const std::int64_t B = kept.given.rows;
    const std::int64_t columns = is_sum_over_columns(loss) ? layers_[l]->columns() : layers_[l]->outputs;
    const View out{last_outputs_.reserve(B * columns * sizeof(float)), B, columns};
    run(pass, l, shape, kept, out);
    return out;
}

/// Those of the columns of `outputs`.
Targets Network::targets_for(View outputs, const Targets& targets) {
    const Layer& last = *layers_.back();
    if (targets.values.data == nullptr || outputs.columns == last.outputs) return targets;
    auto* mine = static_cast<float*>(targets_.reserve(outputs.size() * sizeof(float)));
    for (std::int64_t b = 0; b < outputs.rows; ++b)
        std::copy_n(targets.values.row(b) + last.first_column(), outputs.columns, mine + b * outputs.columns);
    return {{mine, outputs.rows, outputs.columns}, targets.labels};
}

/// Whether this part reports a loss: what all parts compute alike is counted once.
bool Network::reports(Loss loss) const {
    if (layers_.back()->is_cut() && is_sum_over_columns(loss)) return true;
    return std::all_of(layers_.begin(), layers_.end(), [](const auto& layer) { return layer->part == 0; });
}

/// out (B, N) := the sum of `partial` (B, N) over all parts, on each of them.
void Network::complete(const Pass& pass, const Layer& layer, View partial, View out) {
    const std::int64_t parts = std::ssize(layer.cuts) - 1;
    cuts_.resize(parts + 1);
    for (std::int64_t k = 0; k <= parts; ++k) cuts_[k] = partial.columns * k / parts;
    const std::int64_t columns = cuts_[layer.part + 1] - cuts_[layer.part];
    const View mine{partial_.reserve((partial.rows * columns + 1) * sizeof(float)), partial.rows, columns};
    pass.exchange.sum(pass.exchange.context, partial, cuts_, mine);
    pass.exchange.gather(pass.exchange.context, mine, cuts_, out);
}

/// The backward pass from the deltas of the last layer's pre-activations down to layer `first`.
/// @param below out: deltas of what enters that layer, in float, or no data
void Network::descend(const Pass& pass, Shape& shape, Kept& kept, View delta, std::size_t first, View below,
                      bool keep) {
    const std::int64_t B = kept.given.rows;
    const auto room_of = [&](const Layer& layer) {
        if (B == 0) return View{};
        View room = pass.exchange.room(pass.exchange.context, B, layer.inputs);
        room.partial = true;
        return room;
    };
    for (std::size_t l = kept.last; l-- > first;) {
        Layer& layer = *layers_[l];
        const Memory memory = memory_of(l, shape, kept);
        if (l == first) {
            const View under = below && layer.is_cut() ? room_of(layer) : below;
            layer.backward(of_layer(pass, l, kept), memory, in_of(l, kept), delta, under);
            if (under.partial) complete(pass, layer, under, below);
            break;
        }
        Layer& next = *layers_[l - 1];
        const View next_delta = delta_of(l - 1, kept, keep);
        const bool alike = layer.is_cut() == next.is_cut();
        const auto whole = [&] { return View{above_.reserve(B * layer.inputs * sizeof(float)), B, layer.inputs}; };
        View under = layer.is_cut() ? room_of(layer) : alike ? next_delta : whole();
        layer.backward(of_layer(pass, l, kept), memory, in_of(l, kept), delta, under);
        if (under.partial && !alike) {
            complete(pass, layer, under, whole());
            under = whole();
        }
        next.slope(of_layer(pass, l - 1, kept), memory_of(l - 1, shape, kept), read_output_of(l - 1, kept), under,
                   next_delta);
        delta = next_delta;
    }
}

void Network::forward(Pass pass, MatrixView<const float> rows, MatrixView<float> out, std::int64_t first,
                      std::int64_t last, std::int64_t slot) {
    const auto count = std::ssize(layers_);
    if (last == -1) last = count;
    if (first < 0 || last > count || first >= last)
        throw std::invalid_argument("first and last are " + std::to_string(first) + " and " + std::to_string(last) +
                                    "; expected 0 <= first < last <= " + std::to_string(count));
    check_vectors(pass, rows.rows);
    check_shape("rows", rows, rows.rows, layers_[first]->inputs);
    check_shape("out", out, rows.rows, layers_[last - 1]->outputs);

    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    Kept& kept = begin(pass, rows, first, last, slot, first);
    Shape& shape = shape_for(rows.rows);
    hidden_forward(pass, shape, kept);
    const Layer& top = *layers_[last - 1];
    run(pass, last - 1, shape, kept, view(out));
    if (slot == -1) return;
    if (top.reads_outputs()) {
        const View copy = output_of(last - 1, kept);
        if (copy.element == Element::float32)
            std::copy_n(out.data, out.size(), copy.as<float>());
        else
            converted(view(out), copy.element, kept.outputs[last - 1]);
    }
    kept.whole = true;
}

double Network::gradient(Pass pass, MatrixView<const float> rows, const Targets& targets, Loss loss, std::int64_t first,
                         MatrixView<float> below) {
    check_vectors(pass, rows.rows);
    check_targets(rows, targets, loss);
    check_size("gradients", pass.gradients, std::ssize(pass.parameters));
    check_first(first, 0, std::ssize(layers_));
    if (below.data) check_shape("below", below, rows.rows, layers_[first]->inputs);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const std::size_t last = layers_.size() - 1;
    Kept& kept = begin(pass, rows, 0, last + 1, -1, first);
    Shape& shape = shape_for(rows.rows);
    const View outputs = outputs_for(pass, shape, kept, loss);
    // In float the outputs, which are needed no more, give their memory.
    const View delta = kept.element == Element::float32 && outputs.columns == layers_[last]->columns()
                           ? outputs
                           : delta_of(last, kept, false);
    const double own = own_losses(pass, shape, kept).loss;
    const double total =
        layers_[last]->loss(pass, memory_of(last, shape, kept), loss, outputs, targets_for(outputs, targets), delta);
    descend(pass, shape, kept, delta, first, below.data ? view(below) : View{}, false);
    return (reports(loss) ? total : 0.0) + own;
}

LossSums Network::evaluate(Pass pass, MatrixView<const float> rows, const Targets& targets, Loss loss) {
    check_vectors(pass, rows.rows);
    check_targets(rows, targets, loss);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    Kept& kept = begin(pass, rows, 0, layers_.size(), -1, 0);
    Shape& shape = shape_for(rows.rows);
    const View y = outputs_for(pass, shape, kept, loss);
    if (rows.rows == 0 || !reports(loss)) return {};
    const Targets t = targets_for(y, targets);
    const auto& table = best<LossTable<float>>();
    LossSums sums = loss == Loss::softmax
                        ? table.softmax_evaluate(y.as<const float>(), t.labels.data(), y.rows, y.columns)
                        : table.evaluate(loss, y.as<const float>(), t.values.data, y.rows, y.columns);
    const OwnLoss own = own_losses(pass, shape, kept);
    sums.loss += own.loss;
    sums.kl = own.kl;
    return sums;
}

void Network::backward(Pass pass, MatrixView<const float> rows, MatrixView<const float> deltas, MatrixView<float> below,
                       std::int64_t slot, std::int64_t first) {
    check_vectors(pass, rows.rows);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    Kept& kept = found_in(slot, rows);
    if (first == -1) first = static_cast<std::int64_t>(kept.first);
    check_first(first, kept.first, kept.last);
    const std::size_t top = kept.last - 1;
    check_shape("deltas", deltas, rows.rows, layers_[top]->outputs);
    if (below.data) check_shape("below", below, rows.rows, layers_[first]->inputs);

    pass.call = ++calls_;
    pass.slot = slot;
    Shape& shape = shape_for(rows.rows);
    const View delta = delta_of(top, kept, true);
    kept.settled = -1;
    layers_[top]->slope(of_layer(pass, top, kept), memory_of(top, shape, kept), read_output_of(top, kept), view(deltas),
                        delta);
    descend(pass, shape, kept, delta, first, view(below), true);
    kept.settled = first;
}

void Network::tangent(Pass pass, MatrixView<const float> rows, MatrixView<const float> directions, std::int64_t slot) {
    check_vectors(pass, rows.rows);
    check_size("gradients", pass.gradients, std::ssize(pass.parameters));
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    Kept& kept = found_in(slot, rows);
    check_shape("directions", directions, rows.rows, layers_[kept.first]->inputs);
    if (kept.settled != static_cast<std::int64_t>(kept.first))
        throw std::invalid_argument("slot " + std::to_string(slot) +
                                    " keeps no deltas of all its layers; expected a backward pass before");
    for (std::size_t l = kept.first; l < kept.last; ++l)
        if (!layers_[l]->piecewise_linear())
            throw std::invalid_argument(name_of(l) + " is not piecewise linear; expected that of all layers");

    pass.call = ++calls_;
    pass.slot = slot;
    Shape& shape = shape_for(rows.rows);
    View direction = converted(view(directions), kept.element, direction_);
    for (std::size_t l = kept.first; l < kept.last; ++l) {
        View moved;
        if (l + 1 < kept.last) {
            const std::int64_t columns = layers_[l]->outputs;
            moved = {moved_[l % 2].reserve(rows.rows * columns * bytes_of(kept.element)), rows.rows, columns,
                     kept.element};
        }
        layers_[l]->tangent(of_layer(pass, l, kept), memory_of(l, shape, kept), read_output_of(l, kept),
                            delta_of(l, kept, true), direction, moved);
        direction = moved;
    }
}

}  // namespace pyddl::kernels
