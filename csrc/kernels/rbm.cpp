#include "kernels/rbm.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>

#include "kernels/activations.hpp"
#include "kernels/check.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/losses.hpp"
#include "kernels/rbm_loops.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"
#include "kernels/vectors.hpp"

namespace pyddl::kernels {
namespace {

constexpr std::size_t most_shapes = 64;
constexpr double most_of_float32 = 0.25, most_of_bfloat16 = 0.15;  // of units that are not zero, where sparse is faster
constexpr std::uint64_t substeps_of_turn = RandomKey::substeps / Rbm::most_turns;

float* floats(Scratch& scratch, std::int64_t count) {
    return static_cast<float*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(float)));
}

double* doubles(Scratch& scratch, std::int64_t count) {
    return static_cast<double*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(double)));
}

const RbmTable& loops() { return best<RbmTable>(); }

/// Draws of one step of a chain.
enum Draw : std::uint64_t { of_hidden, of_visible, each_step };

/// a + b, both logarithms.
double log_of_sum(double a, double b) {
    const double most = std::max(a, b);
    if (most == -std::numeric_limits<double>::infinity()) return most;
    return most + std::log1p(std::exp(std::min(a, b) - most));
}

}  // namespace

Rbm::Rbm(const RbmShape& shape, Element element) : shape_(shape), element_(element) {
    if (shape.visible < 1 || shape.hidden < 1)
        throw std::invalid_argument("a Boltzmann machine has " + std::to_string(shape.visible) + " visible and " +
                                    std::to_string(shape.hidden) + " hidden units; expected at least 1 each");
    if (shape.weights < 0 || shape.visible_bias < 0 || shape.hidden_bias < 0)
        throw std::invalid_argument("a tensor of a Boltzmann machine begins before the vector does");
    if (shape.code && gaussian())
        throw std::invalid_argument("visible and hidden units are Gaussian both; expected Bernoulli units on one side");
    if (element == Element::bfloat16 && !has_bfloat16())
        throw std::invalid_argument(
            "dtype is 'bfloat16', but this processor has neither AVX512_BF16 nor AMX; use float32");
    end_ =
        std::max({shape.weights + shape.visible * shape.hidden, shape.visible_bias + shape.visible,
                  shape.hidden_bias + shape.hidden, shape.log_variance < 0 ? 0 : shape.log_variance + shape.visible});
}

std::int64_t Rbm::flops(std::int64_t gibbs_steps) const {
    return 2 * shape_.visible * shape_.hidden * (3 + 2 * gibbs_steps + (scores_reconstruction() ? 1 : 0));
}

// ---- checks

void Rbm::check_rows(const char* name, MatrixView<const float> m, std::int64_t columns,
                     std::span<const std::int64_t> numbers) const {
    check_shape(name, m, m.rows, columns);
    check_size("index", numbers, m.rows);
}

void Rbm::refuse_code(const char* what) const {
    if (shape_.code) throw std::invalid_argument(std::string(what) + " is of Bernoulli hidden units");
}

void Rbm::check_turn(const RbmTurn& t) const {
    if (t.sparsity_cost > 0) refuse_code("sparsity");
    check_rows("rows", t.rows, shape_.visible, t.index);
    check_size("gradients", t.gradients, std::ssize(t.parameters));
    if (!t.rounded.empty()) check_size("rounded", t.rounded, std::ssize(t.parameters));
    if (t.persistent) check_rows("chains", t.chains, shape_.hidden, t.numbers);
    if (t.gibbs_steps < 1 || t.gibbs_steps > most_gibbs_steps)
        throw std::invalid_argument("gibbs_steps is " + std::to_string(t.gibbs_steps) + "; expected 1 to " +
                                    std::to_string(most_gibbs_steps));
    if (t.turn >= most_turns)
        throw std::invalid_argument("turn is " + std::to_string(t.turn) + "; expected 0 to " +
                                    std::to_string(most_turns - 1));
    if (!t.reservoir.parameters.empty()) {
        refuse_code("a reservoir");
        const RbmReservoir& r = t.reservoir;
        const std::int64_t each = r.energies.columns;
        if (!t.persistent || each < 1)
            throw std::invalid_argument("a reservoir is of persistent chains, and has at least one state for each");
        check_size("the reservoir's parameters", r.parameters, std::ssize(t.parameters));
        check_shape("the reservoir's states", r.states, t.chains.rows, each * shape_.hidden);
        check_shape("the reservoir's energies", r.energies, t.chains.rows, each);
        check_shape("works", r.works, t.chains.rows, 2);
    }
    if (t.visible_offsets.empty() && t.hidden_offsets.empty()) return;
    check_size("visible_offsets", t.visible_offsets, shape_.visible);
    check_size("hidden_offsets", t.hidden_offsets, shape_.hidden);
}

// ---- memory and products

void Rbm::begin(std::span<const float> parameters, std::int64_t rows, std::span<const Bfloat16> rounded) {
    if (std::ssize(parameters) < end_)
        throw std::invalid_argument("parameters has " + std::to_string(parameters.size()) +
                                    " elements; expected at least " + std::to_string(end_));
    parameters_ = parameters;
    rounded_ = rounded;
    in_ = rows <= few_rows ? Element::float32 : element_;
    weights_rounded_ = false;
    if (!gaussian()) return;
    const std::int64_t V = shape_.visible;
    float *precision = floats(precision_, V), *variance = floats(variance_, V), *deviation = floats(deviation_, V),
          *half = floats(half_precision_, V);
    for (std::int64_t i = 0; i < V; ++i) {
        variance[i] = shape_.log_variance < 0 ? 1.0f : std::exp(parameters[shape_.log_variance + i]);
        precision[i] = 1.0f / variance[i];
        deviation[i] = std::sqrt(variance[i]);
        half[i] = 0.5f * precision[i];
    }
}

Rbm::Products& Rbm::products_for(std::int64_t rows) {
    const int n = threads();
    const auto found = std::find_if(products_.begin(), products_.end(),
                                    [&](const Products& p) { return p.rows == rows && p.threads == n; });
    if (found != products_.end()) {
        products_.splice(products_.begin(), products_, found);
        return products_.front();
    }
    if (products_.size() >= most_shapes) products_.pop_back();
    products_.push_front({rows, n, {}, {}, {}});
    return products_.front();
}

/// In the element of the call: itself, or a copy in `scratch`.
const void* Rbm::as_element(const float* from, std::int64_t size, Scratch& scratch) {
    if (in_ == Element::float32) return from;
    auto* to = static_cast<Bfloat16*>(scratch.reserve(size * sizeof(Bfloat16)));
    best<ConversionTable>().to_bfloat16(from, to, size);
    return to;
}

/// Rounded once in a call, where nobody has done it before.
const void* Rbm::weights_as_element() {
    if (in_ == Element::float32) return weights(parameters_);
    if (!rounded_.empty()) return rounded_.data() + shape_.weights;
    if (weights_rounded_) return rounded_weights_.data();
    weights_rounded_ = true;
    return as_element(weights(parameters_), shape_.visible * shape_.hidden, rounded_weights_);
}

void Rbm::run(std::optional<Product>& product, const ProductShape& shape, const void* a, const void* b,
              const float* bias, float* c) {
    if (!product) product.emplace(shape);
    (*product)(a, b, bias, c, product_scratch_.reserve(product->scratch_bytes()));
}

// ---- conditionals

/// x (rows, H) := u w + c.
void Rbm::hidden_inputs(const float* u, std::int64_t rows, float* x) {
    if (rows == 0) return;
    run(products_for(rows).hidden[in_ == Element::float32],
        {.m = rows, .k = shape_.visible, .n = shape_.hidden, .bias = true, .in = in_},
        as_element(u, rows * shape_.visible, rounded_rows_), weights_as_element(), hidden_bias(parameters_), x);
}

/// h := a sample of the hidden units, x their inputs.
void Rbm::hidden_sample(float* h, const float* x, std::int64_t rows, const std::int64_t* numbers,
                        const RandomKey& key) {
    const auto& random = best<RandomTable>();
    if (!shape_.code) return random.bernoulli_of_logits(h, nullptr, x, rows, shape_.hidden, numbers, key);
    random.normal(h, rows, shape_.hidden, numbers, key);
    best<VectorTable>().add(h, x, rows * shape_.hidden);
}

/// Lists what is not zero in rows of u, where that is so little that sparse products are faster; whether it is. With
/// `more` the rows listed before are still the first ones.
bool Rbm::list(const float* u, std::int64_t rows, bool more) {
    const std::int64_t V = shape_.visible, before = more ? listed_rows_ : 0;
    const double most = in_ == Element::float32 ? most_of_float32 : most_of_bfloat16;
    listed_rows_ = 0;
    if (gaussian() || shape_.hidden < least_columns) return false;
    const SparseTable& sparse = best<SparseTable>();
    if (before == 0 &&
        static_cast<double>(sparse.count(u, rows * V)) > most * static_cast<double>(rows) * static_cast<double>(V))
        return false;
    const std::int64_t later = before == 0 ? 2 : 0;  // memory that grows forgets, and a gradient adds two rows
    const auto room = static_cast<std::size_t>((rows + later) * V + 1);
    auto* first =
        static_cast<std::int64_t*>(first_.reserve(static_cast<std::size_t>(rows + later + 1) * sizeof(std::int64_t)));
    auto* place = static_cast<std::int32_t*>(place_.reserve(room * sizeof(std::int32_t)));
    auto* value = static_cast<float*>(value_.reserve(room * sizeof(float)));
    if (before == 0) first[0] = 0;
    sparse.lists_of_rows(u + before * V, rows - before, V, first + before, place, value);
    listed_rows_ = rows;
    return true;
}

Lists Rbm::listed() const {
    return {listed_rows_, static_cast<const std::int64_t*>(first_.data()),
            static_cast<const std::int32_t*>(place_.data()), static_cast<const float*>(value_.data())};
}

/// x (rows, H) := u w + c, of visible units that may be mostly zeros.
void Rbm::hidden_inputs_of_few(const float* u, std::int64_t rows, float* x) {
    if (!list(u, rows)) return hidden_inputs(u, rows, x);
    best<SparseTable>().product(listed(), weights(parameters_), hidden_bias(parameters_), x, shape_.hidden);
}

/// y (rows, V) := h w' + b.
void Rbm::visible_inputs(const float* h, std::int64_t rows, float* y) {
    if (rows == 0) return;
    if (in_ == Element::float32 && suits_few_rows(rows, shape_.hidden))
        return best<FewRowsTable>().forward(h, weights(parameters_), visible_bias(parameters_), y, rows, shape_.hidden,
                                            shape_.visible);
    run(products_for(rows).visible[in_ == Element::float32],
        {.m = rows, .k = shape_.hidden, .n = shape_.visible, .b_transposed = true, .bias = true, .in = in_},
        as_element(h, rows * shape_.hidden, rounded_states_), weights_as_element(), visible_bias(parameters_), y);
}

/// y, inputs of visible units, becomes u of a sample of them.
void Rbm::visible_sample(float* y, std::int64_t rows, const std::int64_t* numbers, const RandomKey& key) {
    if (!gaussian()) return best<RandomTable>().bernoulli_of_logits(y, nullptr, y, rows, shape_.visible, numbers, key);
    float* normal = floats(normal_, rows * shape_.visible);
    best<RandomTable>().normal(normal, rows, shape_.visible, numbers, key);
    loops().gaussian(y, normal, rows, shape_.visible, static_cast<const float*>(deviation_.data()),
                     static_cast<const float*>(precision_.data()));
}

void Rbm::scaled(float* v, std::int64_t rows, const float* factors) {
    loops().scale_columns(v, rows, shape_.visible, factors);
}

/// u of visible units: themselves, or a copy.
const float* Rbm::inputs_of(MatrixView<const float> v) {
    if (!gaussian()) return v.data;
    float* u = floats(u_, v.size());
    std::copy_n(v.data, v.size(), u);
    scaled(u, v.rows, static_cast<const float*>(precision_.data()));
    return u;
}

void Rbm::free_energies(const float* u, const float* x, std::int64_t rows, double* out) {
    const std::int64_t V = shape_.visible, H = shape_.hidden;
    if (shape_.code) {  // the integral over h of exp(u'wh - |h - c|^2 / 2) = exp((|x|^2 - |c|^2) / 2) (2 pi)^(H / 2)
        const float* const c = hidden_bias(parameters_);
        double constant = 0.5 * static_cast<double>(H) * std::log(2 * std::numbers::pi);
        for (std::int64_t j = 0; j < H; ++j) constant -= 0.5 * static_cast<double>(c[j]) * c[j];
        loops().dot_pairs(x, x, rows, H, out);
        for (std::int64_t r = 0; r < rows; ++r) out[r] = constant + 0.5 * out[r];
    } else {
        loops().row_softplus(x, rows, H, 1.0f, out);
    }
    const float* const b = visible_bias(parameters_);
    if (!gaussian()) {
        double* dots = doubles(dots_, rows);
        loops().dot_rows(u, rows, V, b, dots);
        for (std::int64_t r = 0; r < rows; ++r) out[r] = -out[r] - dots[r];
        return;
    }
    const auto* variance = static_cast<const float*>(variance_.data());
    const auto* half = static_cast<const float*>(half_precision_.data());
    for (std::int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (std::int64_t i = 0; i < V; ++i) {
            const double off = static_cast<double>(u[r * V + i]) * variance[i] - b[i];
            sum += off * off * half[i];
        }
        out[r] = sum - out[r];
    }
}

void Rbm::hidden_mean(std::span<const float> parameters, MatrixView<const float> v, MatrixView<float> out) {
    check_shape("v", v, v.rows, shape_.visible);
    check_shape("out", out, v.rows, shape_.hidden);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, v.rows);
    hidden_inputs(inputs_of(v), v.rows, out.data);
    if (!shape_.code) best<ActivationTable<float>>().activate(Activation::sigmoid, out.data, out.size());
}

void Rbm::visible_mean(std::span<const float> parameters, MatrixView<const float> h, MatrixView<float> out) {
    check_shape("h", h, h.rows, shape_.hidden);
    check_shape("out", out, h.rows, shape_.visible);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, h.rows);
    visible_inputs(h.data, h.rows, out.data);
    if (!gaussian()) best<ActivationTable<float>>().activate(Activation::sigmoid, out.data, out.size());
}

void Rbm::free_energy(std::span<const float> parameters, MatrixView<const float> v, std::span<double> out) {
    check_shape("v", v, v.rows, shape_.visible);
    check_size("out", out, v.rows);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, v.rows);
    const float* u = inputs_of(v);
    float* x = floats(x_, v.rows * shape_.hidden);
    hidden_inputs(u, v.rows, x);
    free_energies(u, x, v.rows, out.data());
}

// ---- scores

void Rbm::places_of(std::span<const std::int64_t> index, const RandomKey& key) {
    best<RandomTable>().uniform(floats(places_, std::ssize(index)), std::ssize(index), 1, index.data(), key);
}

void Rbm::conditional_loss(std::span<const float> parameters, MatrixView<const float> v,
                           std::span<const std::int64_t> index, const RandomKey& key, std::int64_t count,
                           std::span<double> out) {
    check_rows("v", v, shape_.visible, index);
    check_size("out", out, v.rows);
    if (gaussian()) throw std::invalid_argument("conditional_loss is of Bernoulli units");
    refuse_code("conditional_loss");
    if (count < 1 || count > shape_.visible)
        throw std::invalid_argument("count is " + std::to_string(count) + "; expected 1 to " +
                                    std::to_string(shape_.visible) + ", the visible units");
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, v.rows);
    float* x = floats(x_, v.rows * shape_.hidden);
    hidden_inputs(v.data, v.rows, x);
    places_of(index, key);
    loops().conditional_loss(v.data, x, weights(parameters), visible_bias(parameters),
                             static_cast<const float*>(places_.data()), count, v.rows, shape_.visible, shape_.hidden,
                             out.data());
}

/// Between v and its reconstruction from hidden units h.
double Rbm::squared_error(MatrixView<const float> v, const float* h) {
    float* y = floats(visible_, v.size());
    visible_inputs(h, v.rows, y);
    const Loss loss = gaussian() ? Loss::squared_error : Loss::cross_entropy;
    return best<LossTable<float>>().evaluate(loss, y, v.data, v.rows, shape_.visible).squared_error;
}

RbmScores Rbm::evaluate(std::span<const float> parameters, MatrixView<const float> v,
                        std::span<const std::int64_t> index, const RandomKey& key, std::int64_t count) {
    check_rows("v", v, shape_.visible, index);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, v.rows);
    RbmScores scores;
    if (v.rows == 0) return scores;
    const float* u = inputs_of(v);
    float* x = floats(x_, v.rows * shape_.hidden);
    hidden_inputs(u, v.rows, x);
    double* each = doubles(energies_, v.rows);
    free_energies(u, x, v.rows, each);
    for (std::int64_t r = 0; r < v.rows; ++r) scores.free_energy += each[r];
    if (!scores_reconstruction()) {
        places_of(index, key);
        loops().conditional_loss(
            v.data, x, weights(parameters), visible_bias(parameters), static_cast<const float*>(places_.data()),
            std::clamp<std::int64_t>(count, 1, shape_.visible), v.rows, shape_.visible, shape_.hidden, each);
        for (std::int64_t r = 0; r < v.rows; ++r) scores.loss += each[r];
    }
    if (!shape_.code) best<ActivationTable<float>>().activate(Activation::sigmoid, x, v.rows * shape_.hidden);
    scores.squared_error = squared_error(v, x);
    if (scores_reconstruction()) scores.loss = scores.squared_error;
    return scores;
}

// ---- training

double Rbm::gradient(const RbmTurn& t) {
    check_turn(t);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const std::int64_t V = shape_.visible, H = shape_.hidden, B = t.rows.rows;
    const std::int64_t N = t.persistent ? t.chains.rows : B, R = B + N;
    const bool centered = !t.visible_offsets.empty(), sparse = t.sparsity_cost > 0;
    begin(t.parameters, R, t.rounded);
    const auto key = [&](std::uint64_t k, Draw draw) {
        return RandomKey{t.seed, t.purpose, t.step, t.turn * substeps_of_turn + k * each_step + draw};
    };

    // Rows of u and of hidden units: those of the data, those of the chains, and two that center the product of both.
    float *u = floats(u_, (R + 2) * V), *x = floats(x_, (R + 2) * H);
    float *chain_u = u + B * V, *chain_x = x + B * H;
    std::copy_n(t.rows.data, B * V, u);
    if (gaussian()) scaled(u, B, static_cast<const float*>(precision_.data()));

    const std::int64_t* numbers = t.persistent ? t.numbers.data() : t.index.data();
    float* states = t.persistent ? t.chains.data : floats(hidden_, N * H);
    if (!t.persistent) {
        hidden_inputs_of_few(u, B, x);
        hidden_sample(states, x, N, numbers, key(0, of_hidden));
    }
    const bool exchanges = !t.reservoir.parameters.empty();
    if (exchanges) exchange(t, chain_u, key(0, of_hidden));
    for (std::int64_t k = 1; k <= t.gibbs_steps; ++k) {
        const bool last = k == t.gibbs_steps;
        if (k > 1 || !exchanges) visible_inputs(states, N, chain_u);
        if (!(last && t.mean_reconstruction && !t.persistent))
            visible_sample(chain_u, N, numbers, key(k, of_visible));
        else if (gaussian())
            scaled(chain_u, N, static_cast<const float*>(precision_.data()));
        else
            best<ActivationTable<float>>().activate(Activation::sigmoid, chain_u, N * V);
        if (last) break;
        hidden_inputs_of_few(chain_u, N, chain_x);
        hidden_sample(states, chain_x, N, numbers, key(k, of_hidden));
    }
    if (t.persistent)
        hidden_inputs_of_few(u, R, x);  // of rows and chains in one product
    else
        hidden_inputs_of_few(chain_u, N, chain_x);

    double loss = 0;
    if (!scores_reconstruction()) {
        places_of(t.index, key(0, of_visible));
        double* each = doubles(energies_, B);
        loops().conditional_loss(t.rows.data, x, weights(t.parameters), visible_bias(t.parameters),
                                 static_cast<const float*>(places_.data()), 1, B, V, H, each);
        for (std::int64_t b = 0; b < B; ++b) loss += each[b];
    }

    // Sums over columns: of the data's u and h and their number, which all workers add up, and the chains'.
    float* sums = floats(sums_, 3 * (V + H) + 1);
    float *u_sum = sums, *h_sum = sums + V, *count = sums + V + H, *chain_u_sum = count + 1,
          *chain_h_sum = chain_u_sum + V, *own_u_sum = chain_h_sum + H, *own_h_sum = own_u_sum + V;
    const auto weight = static_cast<float>(t.weight);
    const bool linear = shape_.code;  // inputs of hidden units are their means
    if (t.persistent && !linear) {
        best<RandomTable>().bernoulli_of_logits(states, chain_x, chain_x, N, H, numbers, key(t.gibbs_steps, of_hidden));
        loops().scaled_sigmoid(chain_x, N, H, true, weight, chain_h_sum);
    } else {
        if (t.persistent) hidden_sample(states, chain_x, N, numbers, key(t.gibbs_steps, of_hidden));
        loops().scaled_sigmoid(chain_x, N, H, linear, weight, chain_h_sum);
    }
    loops().column_sums(chain_u, N, V, chain_u_sum);
    loops().column_sums(u, B, V, u_sum);
    const bool keeps_means = sparse || scores_reconstruction();
    loops().scaled_sigmoid(x, B, H, linear, keeps_means ? 1.0f : -1.0f, h_sum);
    if (scores_reconstruction() && B > 0) loss = squared_error(t.rows, x);
    std::copy_n(u_sum, V, own_u_sum);
    std::copy_n(h_sum, H, own_h_sum);
    if (centered || sparse) {
        *count = static_cast<float>(B);
        t.sum(sums, V + H + 1);
    }
    if (sparse && *count > 0) {
        float* slopes = floats(work_, H);
        for (std::int64_t j = 0; j < H; ++j) {
            const float q = std::clamp(h_sum[j] / *count, 1e-4f, 1 - 1e-4f);
            slopes[j] = t.sparsity_cost * (q - t.sparsity) / (q * (1 - q));
        }
        loops().subtract_slope(x, B, H, slopes, own_h_sum);
    }
    if (keeps_means) {
        float* of_rows = floats(work_, H);
        loops().scaled_sigmoid(x, B, H, true, -1.0f, of_rows);
    }

    float* const gradients = t.gradients.data();
    float *of_weights = gradients + shape_.weights, *of_visible_bias = gradients + shape_.visible_bias,
          *of_hidden_bias = gradients + shape_.hidden_bias;
    for (std::int64_t i = 0; i < V; ++i) of_visible_bias[i] = weight * chain_u_sum[i] - own_u_sum[i];
    for (std::int64_t j = 0; j < H; ++j) of_hidden_bias[j] = weight * chain_h_sum[j] - own_h_sum[j];
    const float off = static_cast<float>(B) - weight * static_cast<float>(N);
    if (linear)  // of c: h - c, where the weighted numbers of rows and chains differ
        for (std::int64_t j = 0; j < H; ++j) of_hidden_bias[j] += off * hidden_bias(t.parameters)[j];
    if (gaussian()) {  // of b: (v - b) / s^2
        const auto* precision = static_cast<const float*>(precision_.data());
        const float* const b = visible_bias(t.parameters);
        for (std::int64_t i = 0; i < V; ++i) of_visible_bias[i] += off * b[i] * precision[i];
    }
    std::int64_t depth = R;
    if (centered) {
        if (*count > 0) {
            const float rate = t.offset_rate;
            for (std::int64_t i = 0; i < V; ++i)
                t.visible_offsets[i] += rate * (u_sum[i] / *count - t.visible_offsets[i]);
            for (std::int64_t j = 0; j < H; ++j)
                t.hidden_offsets[j] += rate * (h_sum[j] / *count - t.hidden_offsets[j]);
        }
        // G = S - mu <h>' - <u> lam', as two more terms of the product.
        std::copy_n(t.visible_offsets.data(), V, u + R * V);
        std::copy_n(of_visible_bias, V, u + (R + 1) * V);
        for (std::int64_t j = 0; j < H; ++j) x[R * H + j] = -of_hidden_bias[j];
        for (std::int64_t j = 0; j < H; ++j) x[(R + 1) * H + j] = -t.hidden_offsets[j];
        depth = R + 2;
    }
    if (R == 0) {
        std::fill_n(of_weights, V * H, 0.0f);
    } else if (list(u, depth, t.persistent)) {
        const Lists rows = listed();
        const auto room = static_cast<std::size_t>(rows.first[depth]);
        auto* first =
            static_cast<std::int64_t*>(column_first_.reserve(static_cast<std::size_t>(V + 1) * sizeof(std::int64_t)));
        auto* place = static_cast<std::int32_t*>(column_place_.reserve(room * sizeof(std::int32_t)));
        auto* value = static_cast<float*>(column_value_.reserve(room * sizeof(float)));
        best<SparseTable>().lists_of_columns(rows, V, first, place, value);
        best<SparseTable>().product({V, first, place, value}, x, nullptr, of_weights, H);
    } else {
        run(products_for(depth).statistics[in_ == Element::float32],
            {.m = V, .k = depth, .n = H, .a_transposed = true, .in = in_}, as_element(u, depth * V, rounded_rows_),
            as_element(x, depth * H, rounded_states_), nullptr, of_weights);
    }
    if (centered && R > 0) {  // G lam = u'(x lam) and G'mu = x'(u mu): no pass over G
        double* dots = doubles(dots_, depth);
        float* factors = floats(work_, depth);
        loops().dot_rows(x, depth, H, t.hidden_offsets.data(), dots);
        std::copy_n(dots, depth, factors);
        loops().subtract_combination(u, depth, V, factors, of_visible_bias);
        loops().dot_rows(u, depth, V, t.visible_offsets.data(), dots);
        std::copy_n(dots, depth, factors);
        loops().subtract_combination(x, depth, H, factors, of_hidden_bias);
    }
    if (shape_.log_variance >= 0 && shape_.learned) {
        // dE/d(log s^2) = -(v - b)^2 / (2 s^2) + u w h, of which the second is in the (plain) statistics.
        float* of_variance = gradients + shape_.log_variance;
        const auto* variance = static_cast<const float*>(variance_.data());
        const auto* half = static_cast<const float*>(half_precision_.data());
        const float* const b = visible_bias(t.parameters);
        std::fill_n(of_variance, V, 0.0f);
        loops().add_squares(u, variance, B, V, b, -1.0f, of_variance);
        loops().add_squares(chain_u, variance, N, V, b, weight, of_variance);
        // The statistics are G + mu <h>' + <u> lam', whose last two terms are rows R and R + 1.
        const float* const w = weights(t.parameters);
        double *along = doubles(dots_, 3 * V), *of_means = along + V, *of_offsets = of_means + V;
        loops().dot_pairs(of_weights, w, V, H, along);
        if (centered) {
            loops().dot_rows(w, V, H, x + R * H, of_means);
            loops().dot_rows(w, V, H, x + (R + 1) * H, of_offsets);
            for (std::int64_t i = 0; i < V; ++i)
                along[i] -= u[R * V + i] * of_means[i] + u[(R + 1) * V + i] * of_offsets[i];
        }
        for (std::int64_t i = 0; i < V; ++i) of_variance[i] = of_variance[i] * half[i] - static_cast<float>(along[i]);
    }
    t.ready(shape_.weights, shape_.weights + V * H);
    t.ready(shape_.visible_bias, shape_.visible_bias + V);
    t.ready(shape_.hidden_bias, shape_.hidden_bias + H);
    if (shape_.log_variance >= 0 && shape_.learned) t.ready(shape_.log_variance, shape_.log_variance + V);
    return loss;
}

// ---- chains

void Rbm::gibbs(std::span<const float> parameters, MatrixView<float> v, std::span<const std::int64_t> numbers,
                const RandomKey& first, std::int64_t steps, MatrixView<double> energies, MatrixView<float> mean) {
    check_rows("v", v, shape_.visible, numbers);
    if (steps < 0) throw std::invalid_argument("steps is " + std::to_string(steps) + "; expected 0 or more");
    if (energies.data) check_shape("energies", energies, steps, v.rows);
    if (mean.data) check_shape("mean", mean, v.rows, shape_.visible);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, v.rows);
    const std::int64_t N = v.rows, V = shape_.visible, H = shape_.hidden;
    float *x = floats(x_, N * H), *h = floats(hidden_, N * H);
    if (gaussian()) scaled(v.data, N, static_cast<const float*>(precision_.data()));
    for (std::int64_t s = 0; s < steps; ++s) {
        RandomKey key = first;
        key.step += static_cast<std::uint64_t>(s);
        hidden_inputs(v.data, N, x);
        if (energies.data) free_energies(v.data, x, N, energies.row(s));
        key.substep = of_hidden;
        hidden_sample(h, x, N, numbers.data(), key);
        visible_inputs(h, N, v.data);
        if (s + 1 == steps && mean.data) {
            std::copy_n(v.data, N * V, mean.data);
            if (!gaussian()) best<ActivationTable<float>>().activate(Activation::sigmoid, mean.data, N * V);
        }
        key.substep = of_visible;
        visible_sample(v.data, N, numbers.data(), key);
    }
    if (gaussian()) scaled(v.data, N, static_cast<const float*>(variance_.data()));
}

void Rbm::anneal(std::span<const float> parameters, std::span<const float> base, std::span<const double> betas,
                 MatrixView<float> v, std::span<const std::int64_t> numbers, const RandomKey& first,
                 std::span<double> log_weights) {
    refuse_code("annealed importance sampling");
    check_rows("v", v, shape_.visible, numbers);
    check_size("base", base, shape_.visible);
    check_size("log_weights", log_weights, v.rows);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, v.rows);
    const std::int64_t N = v.rows, V = shape_.visible, H = shape_.hidden;
    float *x = floats(x_, N * H), *h = floats(hidden_, N * H), *off = floats(sums_, 2 * V), *shift = off + V;
    double *before = doubles(energies_, 3 * N), *after = before + N, *along = after + N;
    for (std::int64_t i = 0; i < V; ++i) off[i] = visible_bias(parameters)[i] - base[i];
    if (gaussian()) scaled(v.data, N, static_cast<const float*>(precision_.data()));
    for (std::size_t k = 1; k < betas.size(); ++k) {
        const auto beta = static_cast<float>(betas[k]);
        hidden_inputs(v.data, N, x);
        loops().row_softplus(x, N, H, static_cast<float>(betas[k - 1]), before);
        loops().row_softplus(x, N, H, beta, after);
        loops().dot_rows(v.data, N, V, off, along);
        for (std::int64_t n = 0; n < N; ++n)
            log_weights[n] += after[n] - before[n] + (betas[k] - betas[k - 1]) * along[n];
        RandomKey key = first;
        key.step += k;
        key.substep = of_hidden;
        best<VectorTable>().scale(x, N * H, beta);
        best<RandomTable>().bernoulli_of_logits(h, nullptr, x, N, H, numbers.data(), key);
        visible_inputs(h, N, v.data);
        for (std::int64_t i = 0; i < V; ++i) shift[i] = (1 - beta) * base[i];
        loops().tempered(v.data, N, V, beta, shift);
        key.substep = of_visible;
        visible_sample(v.data, N, numbers.data(), key);
    }
    if (gaussian()) scaled(v.data, N, static_cast<const float*>(variance_.data()));
}

// ---- enumeration

std::int64_t Rbm::pieces(bool hidden) const {
    refuse_code("enumeration");
    const std::int64_t units = hidden ? shape_.hidden : shape_.visible;
    if (units > enumerated)
        throw std::invalid_argument("there are " + std::to_string(units) + " units to enumerate; expected at most " +
                                    std::to_string(enumerated));
    if (!hidden && gaussian()) throw std::invalid_argument("Gaussian units cannot be enumerated");
    return std::int64_t{1} << std::max<std::int64_t>(units - low_bits, 0);
}

double Rbm::log_sum(std::span<const float> parameters, bool hidden, std::int64_t first, std::int64_t end) {
    const std::int64_t all = pieces(hidden);
    if (first < 0 || end > all || first > end)
        throw std::invalid_argument("begin and end are " + std::to_string(first) + " and " + std::to_string(end) +
                                    "; expected 0 <= begin <= end <= " + std::to_string(all));
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, 0);
    const std::int64_t V = shape_.visible, H = shape_.hidden;
    const std::int64_t units = hidden ? H : V, others = hidden ? V : H, low = std::min(units, low_bits);
    const float* const bias = hidden ? hidden_bias(parameters) : visible_bias(parameters);
    const float* const other_bias = hidden ? visible_bias(parameters) : hidden_bias(parameters);
    const float* of_unit = weights(parameters);  // (units, others)
    if (hidden) {
        float* transposed = floats(transposed_, V * H);
        for (std::int64_t i = 0; i < V; ++i)
            for (std::int64_t j = 0; j < H; ++j) transposed[j * V + i] = of_unit[i * H + j];
        of_unit = transposed;
    }
    // What the lowest bits add to the inputs of the other side, for each of their states.
    const std::int64_t states = std::int64_t{1} << low;
    float* table = floats(table_, states * others);
    double* low_bias = doubles(bits_, states);
    std::fill_n(table, others, 0.0f);
    low_bias[0] = 0;
    for (std::int64_t s = 1; s < states; ++s) {
        std::int64_t bit = 0;
        while (!(s >> bit & 1)) ++bit;
        const std::int64_t rest = s & (s - 1);
        for (std::int64_t n = 0; n < others; ++n)
            table[s * others + n] = table[rest * others + n] + of_unit[bit * others + n];
        low_bias[s] = low_bias[rest] + bias[bit];
    }
    const Term term = gaussian() ? Term::square : Term::softplus;
    const auto* half = static_cast<const float*>(half_precision_.data());
    const std::int64_t count = end - first, thread_count = threads();
    double* logs = doubles(energies_, count);
    float* inputs = floats(visible_, thread_count * others);
#pragma omp parallel for schedule(static) num_threads(thread_count)
    for (std::int64_t thread = 0; thread < thread_count; ++thread) {
        float* const y = inputs + thread * others;
        for (std::int64_t p = count * thread / thread_count; p < count * (thread + 1) / thread_count; ++p) {
            std::copy_n(other_bias, others, y);
            double upper = 0;
            for (std::int64_t bit = low; bit < units; ++bit) {
                if (!((first + p) >> (bit - low) & 1)) continue;
                upper += bias[bit];
                for (std::int64_t n = 0; n < others; ++n) y[n] += of_unit[bit * others + n];
            }
            double most = -std::numeric_limits<double>::infinity(), sum = 0;
            for (std::int64_t s = 0; s < states; ++s) {
                const double value = upper + low_bias[s] + loops().terms(term, y, table + s * others, half, others);
                if (value > most) {
                    sum = sum * std::exp(most - value) + 1;
                    most = value;
                } else {
                    sum += std::exp(value - most);
                }
            }
            logs[p] = most + std::log(sum);
        }
    }
    double total = -std::numeric_limits<double>::infinity();
    for (std::int64_t p = 0; p < count; ++p) total = log_of_sum(total, logs[p]);
    return total;
}

}  // namespace pyddl::kernels
