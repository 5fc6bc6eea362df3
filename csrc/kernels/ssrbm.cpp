#include "kernels/ssrbm.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

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

constexpr std::uint64_t substeps_of_turn = RandomKey::substeps / Ssrbm::most_turns;
constexpr std::int64_t units_of_loss = 8;
constexpr int attempt_bit = 34;  // of the step in a key: where the number of a further attempt stands
constexpr double log_two_pi = 1.8378770664093454836;

/// Draws of one step of a chain: spikes, and the noise of slabs and visible units.
enum Draw : std::uint64_t { of_spikes, of_noise, each_step };

float* floats(Scratch& scratch, std::int64_t count) {
    return static_cast<float*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(float)));
}

double* doubles(Scratch& scratch, std::int64_t count) {
    return static_cast<double*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(double)));
}

const SsrbmTable& loops() { return best<SsrbmTable>(); }

}  // namespace

Ssrbm::Ssrbm(const SsrbmShape& shape, Element element) : shape_(shape), element_(element) {
    if (shape.visible < 1 || shape.hidden < 1 || shape.pool < 1)
        throw std::invalid_argument("a spike-and-slab machine has " + std::to_string(shape.visible) + " visible, " +
                                    std::to_string(shape.hidden) + " hidden units and pool " +
                                    std::to_string(shape.pool) + "; expected at least 1 each");
    if (shape.weights < 0 || shape.spike_bias < 0 || shape.log_precision < 0)
        throw std::invalid_argument("a tensor of a spike-and-slab machine begins before the vector does");
    if (element == Element::bfloat16 && !has_bfloat16())
        throw std::invalid_argument(
            "dtype is 'bfloat16', but this processor has neither AVX512_BF16 nor AMX; use float32");
    const std::int64_t V = shape.visible, H = shape.hidden, S = slabs();
    const auto end = [](std::int64_t begin, std::int64_t size) { return begin < 0 ? 0 : begin + size; };
    end_ = std::max({end(shape.weights, V * S), end(shape.spike_bias, H),
                     end(shape.log_precision, shape.diagonal_precision ? V : 1), end(shape.slab_mean, S),
                     end(shape.log_phi, shape.diagonal_precision ? V * H : H),
                     end(shape.log_alpha, shape.diagonal_alpha ? S : 1)});
}

std::int64_t Ssrbm::flops(std::int64_t gibbs_steps) const {
    return 2 * shape_.visible * (slabs() + (has_matrix_phi() ? shape_.hidden : 0)) * (4 + 2 * gibbs_steps);
}

// ---- checks

void Ssrbm::check_view(const SsrbmView& view) const {
    check_size("mean", view.mean, shape_.visible);
    if (!(view.scale > 0) || !(view.radius >= 0))
        throw std::invalid_argument("scale is " + std::to_string(view.scale) + " and radius " +
                                    std::to_string(view.radius) + "; expected scale above 0 and radius at least 0");
}

void Ssrbm::check_turn(const SsrbmTurn& t) const {
    check_shape("rows", t.rows, t.rows.rows, shape_.visible);
    check_size("index", t.index, t.rows.rows);
    check_size("gradients", t.gradients, std::ssize(t.parameters));
    if (!t.rounded.empty()) check_size("rounded", t.rounded, std::ssize(t.parameters));
    if (t.persistent) {
        check_shape("chains", t.chains, t.chains.rows, shape_.visible);
        check_size("numbers", t.numbers, t.chains.rows);
    }
    if (t.gibbs_steps < 1 || t.gibbs_steps > most_gibbs_steps)
        throw std::invalid_argument("gibbs_steps is " + std::to_string(t.gibbs_steps) + "; expected 1 to " +
                                    std::to_string(most_gibbs_steps));
    if (t.turn >= most_turns)
        throw std::invalid_argument("turn is " + std::to_string(t.turn) + "; expected 0 to " +
                                    std::to_string(most_turns - 1));
}

// ---- memory and products

/// What follows from the parameters, once in a call.
void Ssrbm::begin(std::span<const float> parameters, const SsrbmView& view, std::int64_t rows,
                  std::span<const Bfloat16> rounded) {
    if (std::ssize(parameters) < end_)
        throw std::invalid_argument("parameters has " + std::to_string(parameters.size()) +
                                    " elements; expected at least " + std::to_string(end_));
    check_view(view);
    parameters_ = parameters;
    rounded_ = rounded;
    in_ = rows <= few_rows ? Element::float32 : element_;
    weights_rounded_ = false;
    radius_ = view.radius / view.scale;
    const std::int64_t V = shape_.visible, H = shape_.hidden, S = slabs();
    const float* const p = parameters.data();

    float *lambda = floats(derived_, 3 * V + 4 * S), *variance = lambda + V, *deviation = variance + V,
          *half_inverse = deviation + V, *slab_deviation = half_inverse + S, *sums = slab_deviation + S,
          *zeros = sums + S;
    for (std::int64_t d = 0; d < V; ++d) {
        lambda[d] = std::exp(p[shape_.log_precision + (shape_.diagonal_precision ? d : 0)]);
        variance[d] = 1.0f / lambda[d];
        deviation[d] = std::sqrt(variance[d]);
    }
    constexpr auto most = static_cast<float>(most_log_alpha);
    for (std::int64_t s = 0; s < S; ++s) {
        const float log_alpha = shape_.log_alpha < 0
                                    ? 0.0f
                                    : std::clamp(p[shape_.log_alpha + (shape_.diagonal_alpha ? s : 0)], -most, most);
        half_inverse[s] = 0.5f * std::exp(-log_alpha);
        slab_deviation[s] = std::exp(-0.5f * log_alpha);
    }
    if (shape_.slab_mean < 0) std::fill_n(zeros, S, 0.0f);
    lambda_ = lambda;
    deviation_ = deviation;
    deviation_stride_ = has_phi() ? V : 0;
    sums_ = sums;
    phi_ = nullptr;
    units_ = {H,
              shape_.pool,
              p + shape_.spike_bias,
              shape_.slab_mean < 0 ? zeros : p + shape_.slab_mean,
              half_inverse,
              slab_deviation,
              nullptr};
    if (!has_phi()) return;
    const float* const log_phi = p + shape_.log_phi;
    float* const phi = floats(phi_scratch_, has_matrix_phi() ? V * H : H);
    loops().weight_sums(weights(), !has_matrix_phi(), V, S, sums);
    if (has_matrix_phi()) {
        loops().guarded(units_, weights(), sums, log_phi, V, phi);
    } else {
        loops().exponentials(log_phi, H, phi);
        for (std::int64_t s = 0; s < S; ++s) phi[s % H] += sums[s] * 2.0f * half_inverse[s];
        units_.phi = phi;
    }
    phi_ = phi;
}

/// In the element of the call: itself, or a copy in `scratch`.
const void* Ssrbm::as_element(const float* from, std::int64_t size, Scratch& scratch) {
    if (in_ == Element::float32) return from;
    auto* to = static_cast<Bfloat16*>(scratch.reserve(size * sizeof(Bfloat16)));
    best<ConversionTable>().to_bfloat16(from, to, size);
    return to;
}

/// Rounded once in a call, where nobody has done it before.
const void* Ssrbm::weights_as_element() {
    if (in_ == Element::float32) return weights();
    if (!rounded_.empty()) return rounded_.data() + shape_.weights;
    if (weights_rounded_) return rounded_weights_.data();
    weights_rounded_ = true;
    return as_element(weights(), shape_.visible * slabs(), rounded_weights_);
}

// ---- conditionals

/// y (rows, S) := u w, x (rows, H) := the spikes' inputs.
void Ssrbm::inputs(const float* u, std::int64_t rows, float* y, float* x) {
    if (rows == 0) return;
    const std::int64_t V = shape_.visible, H = shape_.hidden;
    products_.run({.m = rows, .k = V, .n = slabs(), .in = in_}, as_element(u, rows * V, rounded_rows_),
                  weights_as_element(), nullptr, y);
    const float *q = nullptr, *squares = nullptr;
    if (has_matrix_phi()) {
        float *squared = floats(squares_, rows * V), *products = floats(q_, rows * H);
        loops().square(u, rows * V, squared);
        products_.run({.m = rows, .k = V, .n = H}, squared, phi_, nullptr, products);
        q = products;
    } else if (has_phi()) {
        float* norms = floats(squares_, rows);
        loops().row_squares(u, rows, V, norms);
        squares = norms;
    }
    loops().spike_inputs(units_, y, q, squares, rows, x);
}

/// m (rows, V) := mean of u given slabs s (rows, S), times their spikes, and spikes h (rows, H); deviation_ is that of
/// the visible units.
void Ssrbm::visible_mean(const float* s, const float* h, std::int64_t rows, float* m) {
    if (rows == 0) return;
    const std::int64_t V = shape_.visible, H = shape_.hidden, S = slabs();
    if (in_ == Element::float32 && suits_few_rows(rows, S))
        best<FewRowsTable>().forward(s, weights(), nullptr, m, rows, S, V);
    else
        products_.run({.m = rows, .k = S, .n = V, .b_transposed = true, .in = in_},
                      as_element(s, rows * S, rounded_states_), weights_as_element(), nullptr, m);
    if (!has_phi()) return best<RbmTable>().scale_columns(m, rows, V, lambda_ + V);
    float* precision = floats(deviations_, rows * V);
    if (has_matrix_phi()) {
        products_.run({.m = rows, .k = H, .n = V, .b_transposed = true, .bias = true}, h, phi_, lambda_, precision);
    } else {
        double* shift = doubles(shifts_, rows);
        best<RbmTable>().dot_rows(h, rows, H, phi_, shift);
        loops().precisions(lambda_, shift, rows, V, precision);
    }
    loops().settle(m, precision, rows, V);
    deviation_ = precision;
}

/// Moves rows u (rows, V): spikes, slabs, visible units. Returns how many first left the ball.
std::int64_t Ssrbm::gibbs_step(float* u, std::int64_t rows, const std::int64_t* numbers, RandomKey key) {
    if (rows == 0) return 0;
    const std::int64_t V = shape_.visible, H = shape_.hidden, S = slabs();
    float *y = floats(y_, rows * S), *x = floats(x_, rows * H), *h = floats(spikes_, rows * H),
          *noise = floats(noise_, rows * (S + V)), *m = floats(visible_, rows * V);
    inputs(u, rows, y, x);
    const std::uint64_t first = key.substep;
    key.substep = first + of_spikes;
    best<RandomTable>().bernoulli_of_logits(h, nullptr, x, rows, H, numbers, key);
    key.substep = first + of_noise;
    best<RandomTable>().normal(noise, rows, S + V, numbers, key);
    loops().slabs(units_, y, h, noise, S + V, rows);
    visible_mean(y, h, rows, m);
    return visible_sample(m, rows, numbers, key, noise + S, u);
}

/// u (rows, V) := a sample about m, within the ball. A chain that does not get there in so many attempts stays where it
/// is, which leaves its distribution as it should be: given spikes and slabs, whether it stays does not depend on u.
std::int64_t Ssrbm::visible_sample(const float* m, std::int64_t rows, const std::int64_t* numbers, RandomKey key,
                                   const float* noise, float* u) {
    const std::int64_t V = shape_.visible, stride = slabs() + V;
    float* norms = floats(norms_, rows);
    if (radius_ == 0) {
        loops().propose(m, deviation_, deviation_stride_, noise, stride, rows, V, u, norms);
        return 0;
    }
    float* proposal = floats(proposals_, rows * V);
    loops().propose(m, deviation_, deviation_stride_, noise, stride, rows, V, proposal, norms);
    const float most = radius_ * radius_;
    auto* outside = static_cast<std::int64_t*>(retry_.reserve(2 * rows * sizeof(std::int64_t)));
    auto* their_numbers = outside + rows;
    std::int64_t left = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
        if (norms[r] < most)
            std::copy_n(proposal + r * V, V, u + r * V);
        else
            outside[left++] = r;
    }
    const std::int64_t first = left;
    for (std::uint64_t attempt = 1; attempt < attempts && left > 0; ++attempt) {
        for (std::int64_t j = 0; j < left; ++j) their_numbers[j] = numbers[outside[j]];
        RandomKey again = key;
        again.step |= attempt << attempt_bit;
        float* z = floats(work_, left * V);
        best<RandomTable>().normal(z, left, V, their_numbers, again);
        std::int64_t still = 0;
        for (std::int64_t j = 0; j < left; ++j) {
            const std::int64_t r = outside[j];
            loops().propose(m + r * V, deviation_ + r * deviation_stride_, 0, z + j * V, 0, 1, V, proposal, norms);
            if (norms[0] < most)
                std::copy_n(proposal, V, u + r * V);
            else
                outside[still++] = r;
        }
        left = still;
    }
    return first;
}

double Ssrbm::constant() const {
    double sum = 0;
    for (std::int64_t s = 0; s < slabs(); ++s) sum += log_two_pi + std::log(2.0 * units_.half_inverse[s]);
    return sum / 2;
}

void Ssrbm::spikes(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v, bool mean,
                   MatrixView<float> out) {
    check_shape("v", v, v.rows, shape_.visible);
    check_shape("out", out, v.rows, shape_.hidden);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, view, v.rows);
    float *u = floats(u_, v.size()), *y = floats(y_, v.rows * slabs());
    loops().standardise(v.data, view.mean.data(), 1.0f / view.scale, v.rows, v.columns, u);
    inputs(u, v.rows, y, out.data);
    if (mean) best<ActivationTable<float>>().activate(Activation::sigmoid, out.data, out.size());
}

void Ssrbm::reconstruct(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v,
                        MatrixView<float> out) {
    check_shape("v", v, v.rows, shape_.visible);
    check_shape("out", out, v.rows, shape_.visible);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, view, v.rows);
    const std::int64_t H = shape_.hidden, B = v.rows;
    float *u = floats(u_, v.size()), *y = floats(y_, B * slabs()), *x = floats(x_, B * H);
    loops().standardise(v.data, view.mean.data(), 1.0f / view.scale, B, v.columns, u);
    inputs(u, B, y, x);
    best<ActivationTable<float>>().activate(Activation::sigmoid, x, B * H);
    loops().slabs(units_, y, x, nullptr, 0, B);
    visible_mean(y, x, B, out.data);
    loops().restore(out.data, view.mean.data(), view.scale, B, v.columns, out.data);
}

void Ssrbm::free_energy(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v,
                        std::span<double> out) {
    check_shape("v", v, v.rows, shape_.visible);
    check_size("out", out, v.rows);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, view, v.rows);
    const std::int64_t B = v.rows, H = shape_.hidden;
    float *u = floats(u_, v.size()), *y = floats(y_, B * slabs()), *x = floats(x_, B * H);
    loops().standardise(v.data, view.mean.data(), 1.0f / view.scale, B, v.columns, u);
    inputs(u, B, y, x);
    double* squares = doubles(energies_, B);
    loops().quadratic(u, lambda_, B, v.columns, squares);
    best<RbmTable>().row_softplus(x, B, H, 1.0f, out.data());
    const double of_slabs = constant();
    for (std::int64_t r = 0; r < B; ++r) out[r] = squares[r] - out[r] - of_slabs;
}

SsrbmScores Ssrbm::evaluate(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v,
                            std::span<const std::int64_t> index, const RandomKey& key) {
    SsrbmScores scores;
    check_size("index", index, v.rows);
    if (v.rows == 0) return scores;
    const std::int64_t B = v.rows, V = shape_.visible;
    std::vector<double> energies(B);
    free_energy(parameters, view, v, energies);
    for (const double each : energies) scores.free_energy += each;
    std::vector<float> rebuilt(v.size());
    reconstruct(parameters, view, v, {rebuilt.data(), B, V});
    scores.squared_error =
        best<LossTable<float>>().evaluate(Loss::squared_error, rebuilt.data(), v.data, B, V).squared_error;
    if (view.radius == 0) return scores;
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, view, B);
    float* u = floats(u_, v.size());
    loops().standardise(v.data, view.mean.data(), 1.0f / view.scale, B, V, u);
    scores.rejected = static_cast<double>(gibbs_step(u, B, index.data(), key));
    return scores;
}

// ---- training

double Ssrbm::gradient(const SsrbmTurn& t, const SsrbmView& view) {
    check_turn(t);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const std::int64_t V = shape_.visible, H = shape_.hidden, S = slabs(), B = t.rows.rows;
    const std::int64_t N = t.persistent ? t.chains.rows : B, R = B + N;
    begin(t.parameters, view, R, t.rounded);

    // Rows of u: those of the data, those of the chains.
    float *u = floats(u_, R * V), *chain_u = u + B * V;
    loops().standardise(t.rows.data, view.mean.data(), 1.0f / view.scale, B, V, u);
    std::copy_n(t.persistent ? t.chains.data : u, N * V, chain_u);
    const std::int64_t* numbers = t.persistent ? t.numbers.data() : t.index.data();
    const auto key = [&](std::int64_t k) {
        return RandomKey{t.seed, t.purpose, t.step,
                         t.turn * substeps_of_turn + static_cast<std::uint64_t>(k) * each_step};
    };
    for (std::int64_t k = 0; k < t.gibbs_steps; ++k) gibbs_step(chain_u, N, numbers, key(k));
    if (t.persistent) std::copy_n(chain_u, N * V, t.chains.data);

    float *y = floats(y_, R * S), *x = floats(x_, R * H);
    inputs(u, R, y, x);
    const auto weight = static_cast<float>(t.weight);
    const auto all = static_cast<double>(B) - t.weight * static_cast<double>(N);  // 0 but for rounding, or no chains
    float *sums = floats(work_, 2 * (H + 2 * S)), *of_bias = sums, *of_mean = of_bias + H, *of_alpha = of_mean + S;
    const std::int64_t each = H + 2 * S;
    loops().statistics(units_, y, x, B, -1.0f, of_bias, of_mean, of_alpha);
    loops().statistics(units_, y + B * S, x + B * H, N, weight, of_bias + each, of_mean + each, of_alpha + each);
    for (std::int64_t i = 0; i < each; ++i) sums[i] += sums[each + i];

    const std::int64_t count = std::min(V, units_of_loss);
    float* places = floats(places_, B);
    best<RandomTable>().uniform(places, B, 1, t.index.data(), {t.seed, t.purpose, t.step, key(t.gibbs_steps).substep});
    const double loss = loops().unit_errors(units_, u, y, x, weights(), has_matrix_phi() ? phi_ : nullptr, lambda_,
                                            places, count, B, V);

    float* const gradients = t.gradients.data();
    float* const of_weights = gradients + shape_.weights;
    std::copy_n(of_bias, H, gradients + shape_.spike_bias);
    float* of_lambda = floats(slopes_, V);
    std::fill_n(of_lambda, V, 0.0f);
    loops().column_squares(u, B, V, 0.5f, of_lambda);
    loops().column_squares(chain_u, N, V, -0.5f * weight, of_lambda);
    for (std::int64_t d = 0; d < V; ++d) of_lambda[d] *= lambda_[d];
    if (shape_.diagonal_precision) {
        std::copy_n(of_lambda, V, gradients + shape_.log_precision);
    } else {
        double total = 0;
        for (std::int64_t d = 0; d < V; ++d) total += of_lambda[d];
        gradients[shape_.log_precision] = static_cast<float>(total);
    }
    if (shape_.slab_mean >= 0) std::copy_n(of_mean, S, gradients + shape_.slab_mean);
    for (std::int64_t s = 0; s < S; ++s) of_alpha[s] = static_cast<float>(0.5 * all) - of_alpha[s];
    if (R == 0) {
        std::fill_n(of_weights, V * S, 0.0f);
    } else {
        products_.run({.m = V, .k = R, .n = S, .a_transposed = true, .in = in_}, as_element(u, R * V, rounded_rows_),
                      as_element(y, R * S, rounded_states_), nullptr, of_weights);
    }
    if (has_phi()) {
        float* by_phi = floats(q_, std::max(R * H, V * H));
        if (has_matrix_phi()) {
            if (R == 0)
                std::fill_n(by_phi, V * H, 0.0f);
            else
                products_.run({.m = V, .k = R, .n = H, .a_transposed = true},
                              static_cast<const float*>(squares_.data()), x, nullptr, by_phi);
            best<VectorTable>().scale(by_phi, V * H, -0.5f);
        } else {
            std::fill_n(by_phi, H, 0.0f);
            if (R > 0)
                best<RbmTable>().subtract_combination(x, R, H, static_cast<const float*>(squares_.data()), by_phi);
            best<VectorTable>().scale(by_phi, H, 0.5f);
        }
        slopes_of_phi(gradients, by_phi);
        const auto* along = static_cast<const float*>(along_.data());
        for (std::int64_t s = 0; s < S; ++s) of_alpha[s] -= along[s] * 2.0f * units_.half_inverse[s];
    }
    if (shape_.log_alpha >= 0) {
        const float* const log_alpha = t.parameters.data() + shape_.log_alpha;
        float* const out = gradients + shape_.log_alpha;
        // Beyond its bounds a value may come back, but has no reason to go on.
        const auto within = [](float value, float slope) {
            constexpr auto most = static_cast<float>(most_log_alpha);
            return (value > most && slope < 0) || (value < -most && slope > 0) ? 0.0f : slope;
        };
        if (shape_.diagonal_alpha) {
            for (std::int64_t s = 0; s < S; ++s) out[s] = within(log_alpha[s], of_alpha[s]);
        } else {
            double total = 0;
            for (std::int64_t s = 0; s < S; ++s) total += of_alpha[s];
            *out = within(*log_alpha, static_cast<float>(total));
        }
    }
    const auto announce = [&](std::int64_t begin, std::int64_t size) {
        if (begin >= 0) t.ready(begin, begin + size);
    };
    announce(shape_.weights, V * S);
    announce(shape_.spike_bias, H);
    announce(shape_.log_precision, shape_.diagonal_precision ? V : 1);
    announce(shape_.slab_mean, S);
    announce(shape_.log_phi, has_matrix_phi() ? V * H : H);
    announce(shape_.log_alpha, shape_.diagonal_alpha ? S : 1);
    return loss * static_cast<double>(view.scale) * static_cast<double>(view.scale);
}

/// From slopes by Phi to those by log_phi and, added, by the weights; along_ (S) what times 1 / alpha is lost by
/// log_alpha.
void Ssrbm::slopes_of_phi(float* gradients, const float* by_phi) {
    const std::int64_t V = shape_.visible, H = shape_.hidden, S = slabs();
    float *of_weights = gradients + shape_.weights, *of_log_phi = gradients + shape_.log_phi;
    const float* const log_phi = parameters_.data() + shape_.log_phi;
    float* along = floats(along_, S);
    if (has_matrix_phi()) {
        loops().guarded_slopes(units_, weights(), sums_, log_phi, by_phi, V, of_log_phi, of_weights, along);
        for (std::int64_t s = 0; s < S; ++s) along[s] *= sums_[s];
        return;
    }
    loops().exponentials(log_phi, H, of_log_phi);
    for (std::int64_t i = 0; i < H; ++i) of_log_phi[i] *= by_phi[i];
    for (std::int64_t s = 0; s < S; ++s) along[s] = 4.0f * by_phi[s % H] * units_.half_inverse[s];
    loops().add_scaled_columns(weights(), along, V, S, of_weights);
    for (std::int64_t s = 0; s < S; ++s) along[s] = by_phi[s % H] * sums_[s];
}

// ---- chains

void Ssrbm::gibbs(std::span<const float> parameters, const SsrbmView& view, MatrixView<float> v,
                  std::span<const std::int64_t> numbers, const RandomKey& first, std::int64_t steps) {
    check_shape("v", v, v.rows, shape_.visible);
    check_size("numbers", numbers, v.rows);
    if (steps < 0) throw std::invalid_argument("steps is " + std::to_string(steps) + "; expected 0 or more");
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, view, v.rows);
    float* u = floats(u_, v.size());
    loops().standardise(v.data, view.mean.data(), 1.0f / view.scale, v.rows, v.columns, u);
    for (std::int64_t k = 0; k < steps; ++k) {
        RandomKey key = first;
        key.step += static_cast<std::uint64_t>(k);
        gibbs_step(u, v.rows, numbers.data(), key);
    }
    loops().restore(u, view.mean.data(), view.scale, v.rows, v.columns, v.data);
}

// ---- enumeration

SsrbmStates Ssrbm::log_normalisers(std::span<const float> parameters, std::int64_t first, std::int64_t end,
                                   double shift) {
    const std::int64_t V = shape_.visible, H = shape_.hidden, K = shape_.pool, S = slabs();
    if (H > enumerated)
        throw std::invalid_argument("there are " + std::to_string(H) + " spikes to enumerate; expected at most " +
                                    std::to_string(enumerated));
    if (first < 0 || end > std::int64_t{1} << H || first > end)
        throw std::invalid_argument("begin and end are " + std::to_string(first) + " and " + std::to_string(end) +
                                    "; expected 0 <= begin <= end <= " + std::to_string(std::int64_t{1} << H));
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const std::vector<float> origin(V, 0.0f);
    begin(parameters, {origin, 1.0f, 0.0f}, 0);
    constexpr double none = -std::numeric_limits<double>::infinity();
    const double constants = constant() + static_cast<double>(V) * log_two_pi / 2;
    std::vector<double> unit(V * S), logs(end - first);  // columns of weights, by alpha^-1/2: (S, V)
    for (std::int64_t s = 0; s < S; ++s)
        for (std::int64_t d = 0; d < V; ++d)
            unit[s * V + d] = static_cast<double>(weights()[d * S + s]) * units_.deviation[s];
    std::int64_t improper = 0;
#pragma omp parallel num_threads(threads()) reduction(+ : improper)
    {
        // Of a state with n slabs on: D = Lambda + sum Phi, U their columns, and the inverse covariance D - U U' has
        // the determinant |D| |I - U'D^-1 U| (matrix determinant lemma), of which the second is small.
        std::vector<double> diagonal(V), scaled(S * V), small(S * S), mean(S);
        std::vector<std::int64_t> on(S);
#pragma omp for schedule(static)
        for (std::int64_t state = first; state < end; ++state) {
            for (std::int64_t d = 0; d < V; ++d) diagonal[d] = static_cast<double>(lambda_[d]) - shift;
            double log_value = constants;
            std::int64_t n = 0;
            for (std::int64_t i = 0; i < H; ++i) {
                if (!(state >> i & 1)) continue;
                log_value += static_cast<double>(units_.bias[i]);
                for (std::int64_t k = 0; k < K; ++k) on[n++] = k * H + i;
                if (phi_)
                    for (std::int64_t d = 0; d < V; ++d)
                        diagonal[d] += static_cast<double>(has_matrix_phi() ? phi_[d * H + i] : phi_[i]);
            }
            bool proper = true;
            for (std::int64_t d = 0; d < V; ++d) {
                proper = proper && diagonal[d] > 0;
                if (proper) log_value -= std::log(diagonal[d]) / 2;
            }
            for (std::int64_t a = 0; a < n && proper; ++a) {
                const double* const column = unit.data() + on[a] * V;
                double* const to = scaled.data() + a * V;
                for (std::int64_t d = 0; d < V; ++d) to[d] = column[d] / diagonal[d];
                mean[a] = static_cast<double>(units_.slab_mean[on[a]]) / static_cast<double>(units_.deviation[on[a]]);
                log_value -= mean[a] * mean[a] / 2;
                // A row of Cholesky's factor of I - U'D^-1 U, and of its inverse times the means.
                for (std::int64_t b = 0; b <= a; ++b) {
                    const double* const other = unit.data() + on[b] * V;
                    double sum = a == b ? 1 : 0;
                    for (std::int64_t d = 0; d < V; ++d) sum -= to[d] * other[d];
                    for (std::int64_t c = 0; c < b; ++c) sum -= small[a * S + c] * small[b * S + c];
                    if (b < a) {
                        small[a * S + b] = sum / small[b * S + b];
                        mean[a] -= small[a * S + b] * mean[b];
                    } else if (sum > 0) {
                        small[a * S + a] = std::sqrt(sum);
                        mean[a] /= small[a * S + a];
                        log_value += mean[a] * mean[a] / 2 - std::log(sum) / 2;
                    } else {
                        proper = false;
                    }
                }
            }
            logs[state - first] = proper ? log_value : none;
            improper += proper ? 0 : 1;
        }
    }
    const double most = logs.empty() ? none : *std::max_element(logs.begin(), logs.end());
    double sum = 0;
    if (most > none)
        for (const double each : logs) sum += std::exp(each - most);
    return {most > none ? most + std::log(sum) : none, improper};
}

}  // namespace pyddl::kernels
