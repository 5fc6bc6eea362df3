// A ladder of machines: exchanges of states between neighbours. See rbm.hpp for letters.
// Sources: Swendsen, Wang (1986), Physical Review Letters 57, 2607 (exchanges); Syed, Bouchard-Cote, Deligiannidis,
// Doucet (2022), JRSS B 84(2), 321-350 (odd and even neighbours in turn).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/check.hpp"
#include "kernels/rbm.hpp"
#include "kernels/rbm_loops.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

enum Draw : std::uint64_t { of_hidden, of_visible, of_exchange, each_rung };

/// The logarithm of the probability by which an exchange is made, of works on its upper and lower side.
bool exchanged(double lower, double upper, float uniform) {
    return std::log(std::max(static_cast<double>(uniform), 1e-30)) < upper - lower;
}

}  // namespace

/// out (rows) := free energies of hidden units h, whose visible units have the inputs y; where all rows of y are alike,
/// the first one counts.
void Rbm::hidden_energies(const float* h, const float* y, std::int64_t rows, double* out, bool alike) {
    const RbmTable& loops = best<RbmTable>();
    const std::int64_t V = shape_.visible, H = shape_.hidden;
    double* dots = static_cast<double*>(dots_.reserve(std::max<std::int64_t>(rows, 1) * sizeof(double)));
    loops.dot_rows(h, rows, H, hidden_bias(parameters_), dots);
    const std::int64_t distinct = alike ? std::min<std::int64_t>(rows, 1) : rows;
    if (!gaussian()) {
        loops.row_softplus(y, distinct, V, 1.0f, out);
        std::fill(out + distinct, out + rows, rows > 0 ? out[0] : 0.0);
        for (std::int64_t r = 0; r < rows; ++r) out[r] = -out[r] - dots[r];
        return;
    }
    const auto *variance = static_cast<const float*>(variance_.data()),
               *half = static_cast<const float*>(half_precision_.data());
    const float* const b = visible_bias(parameters_);
    double constant = 0;
    for (std::int64_t i = 0; i < V; ++i) constant += std::log(2 * std::numbers::pi * variance[i]) / 2;
    double sum = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
        if (r < distinct) {
            sum = constant;
            for (std::int64_t i = 0; i < V; ++i) {
                const double mean = y[r * V + i];
                sum += half[i] * (mean * mean - static_cast<double>(b[i]) * b[i]);
            }
        }
        out[r] = -sum - dots[r];
    }
}

void Rbm::hidden_free_energy(std::span<const float> parameters, MatrixView<const float> h, std::span<double> out) {
    refuse_code("a free energy of hidden units");
    check_shape("h", h, h.rows, shape_.hidden);
    check_size("out", out, h.rows);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, h.rows);
    auto* y = static_cast<float*>(visible_.reserve(std::max<std::int64_t>(h.rows * shape_.visible, 1) * sizeof(float)));
    visible_inputs(h.data, h.rows, y);
    hidden_energies(h.data, y, h.rows, out.data());
}

/// Chains of the turn and one state of each one's reservoir change places, or do not. y (N, V) := inputs of the visible
/// units of the chains' states afterwards.
void Rbm::exchange(const RbmTurn& t, float* y, const RandomKey& key) {
    const RbmReservoir& r = t.reservoir;
    const std::int64_t N = t.chains.rows, V = shape_.visible, H = shape_.hidden, R = r.energies.columns;
    const std::int64_t most = (N + 1) / 2;
    const auto floats = [](Scratch& scratch, std::int64_t count) {
        return static_cast<float*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(float)));
    };
    float *drawn = floats(places_, 2 * N), *h = floats(hidden_, 2 * most * H),
          *pair_y = floats(ladder_inputs_, 3 * most * V), *below_y = pair_y + 2 * most * V;
    auto* energies =
        static_cast<double*>(ladder_energies_.reserve(std::max<std::int64_t>(3 * most, 1) * sizeof(double)));
    visible_inputs(t.chains.data, N, y);
    best<RandomTable>().uniform(drawn, N, 2, t.numbers.data(), key);
    const auto member = [&](std::int64_t n) {
        return std::min(R - 1, static_cast<std::int64_t>(drawn[2 * n] * static_cast<float>(R)));
    };
    const auto tries = [&](std::int64_t n) { return (t.numbers[static_cast<std::size_t>(n)] + r.parity) % 2 == 0; };
    std::int64_t count = 0;
    for (std::int64_t n = 0; n < N; ++n) count += tries(n);
    if (count == 0) return;
    // States of the chains, and behind them those that were drawn.
    float *others = h + count * H, *other_y = pair_y + count * V;
    for (std::int64_t n = 0, m = 0; n < N; ++n) {
        if (!tries(n)) continue;
        std::copy_n(t.chains.row(n), H, h + m * H);
        std::copy_n(y + n * V, V, pair_y + m * V);
        std::copy_n(r.states.row(n) + member(n) * H, H, others + m++ * H);
    }
    double *own = energies, *other = own + count, *below = other + count;
    visible_inputs(others, count, other_y);
    hidden_energies(h, pair_y, 2 * count, own);
    const Element in = in_;
    begin(r.parameters, N);
    in_ = in;
    visible_inputs(h, count, below_y);
    hidden_energies(h, below_y, count, below);
    begin(t.parameters, N, t.rounded);
    in_ = in;
    for (std::int64_t n = 0, m = -1; n < N; ++n) {
        if (!tries(n)) continue;
        ++m;
        float* const kept = r.energies.row(n) + member(n);
        const double lower = other[m] - static_cast<double>(*kept), upper = own[m] - below[m];
        r.works.row(n)[0] = static_cast<float>(lower);
        r.works.row(n)[1] = static_cast<float>(upper);
        if (!exchanged(lower, upper, drawn[2 * n + 1])) continue;
        std::swap_ranges(t.chains.row(n), t.chains.row(n) + H, r.states.row(n) + member(n) * H);
        std::copy_n(other_y + m * V, V, y + n * V);
        *kept = static_cast<float>(below[m]);
    }
}

void Rbm::climb(MatrixView<const float> rungs, MatrixView<float> states, std::span<const std::int64_t> numbers,
                const RandomKey& key, std::int64_t first, std::int64_t sweeps, std::span<double> works,
                MatrixView<double> energies) {
    refuse_code("a ladder");
    const std::int64_t L = rungs.rows, N = states.rows, V = shape_.visible, H = shape_.hidden;
    if (L < 1 || states.columns < L * H || states.columns % H)
        throw std::invalid_argument("states have " + std::to_string(states.columns) + " columns; expected at least " +
                                    std::to_string(L * H) + ", " + std::to_string(H) + " for each of the " +
                                    std::to_string(L) + " rungs");
    check_size("numbers", numbers, N);
    check_size("works", works, sweeps * (L - 1) * 2 * N);
    check_shape("energies", energies, sweeps, N);
    if (first < 0 || sweeps < 0 || (first + sweeps) * L * each_rung > static_cast<std::int64_t>(RandomKey::substeps))
        throw std::invalid_argument("sweeps " + std::to_string(first) + " to " + std::to_string(first + sweeps) +
                                    " of " + std::to_string(L) +
                                    " rungs have no random numbers of their own: take fewer");
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    const auto floats = [](Scratch& scratch, std::int64_t count) {
        return static_cast<float*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(float)));
    };
    // Of all rungs: states, and the inputs of their visible units. Of a pair: the same under its other machine.
    float *h = floats(hidden_, L * N * H), *y = floats(ladder_inputs_, (L + 2) * N * V), *up_y = y + L * N * V,
          *down_y = up_y + N * V, *x = floats(x_, N * H), *drawn = floats(places_, N);
    auto* own = static_cast<double*>(ladder_energies_.reserve(std::max<std::int64_t>((L + 2) * N, 1) * sizeof(double)));
    double *up = own + L * N, *down = up + N;
    const auto parameters = [&](std::int64_t rung) {
        return std::span<const float>(rungs.row(rung), static_cast<std::size_t>(rungs.columns));
    };
    for (std::int64_t rung = 0; rung < L; ++rung) {
        for (std::int64_t n = 0; n < N; ++n) std::copy_n(states.row(n) + rung * H, H, h + (rung * N + n) * H);
        begin(parameters(rung), N);
        visible_inputs(h + rung * N * H, N, y + rung * N * V);
    }
    // Units of the lowest machine are mostly independent: then inputs of its visible units are their biases always.
    const float* const w = weights(parameters(0));
    const bool independent = std::all_of(w, w + V * H, [](float weight) { return weight == 0.0f; });
    std::fill(works.begin(), works.end(), std::numeric_limits<double>::quiet_NaN());
    for (std::int64_t s = 0; s < sweeps; ++s) {
        const auto draws = [&](std::int64_t rung, Draw draw) {
            RandomKey own_key = key;
            own_key.substep = static_cast<std::uint64_t>((first + s) * L + rung) * each_rung + draw;
            return own_key;
        };
        for (std::int64_t rung = 0; rung < L; ++rung) {
            float *its_h = h + rung * N * H, *its_y = y + rung * N * V;
            begin(parameters(rung), N);
            const bool alone = independent && rung == 0;
            if (alone) {
                for (std::int64_t n = 0; n < N; ++n) std::copy_n(hidden_bias(parameters_), H, x + n * H);
            } else {
                visible_sample(its_y, N, numbers.data(), draws(rung, of_visible));
                hidden_inputs(its_y, N, x);
            }
            best<RandomTable>().bernoulli_of_logits(its_h, nullptr, x, N, H, numbers.data(), draws(rung, of_hidden));
            if (!alone) visible_inputs(its_h, N, its_y);
            hidden_energies(its_h, its_y, N, own + rung * N, alone);
        }
        std::copy_n(own + (L - 1) * N, N, energies.row(s));
        for (std::int64_t rung = (first + s) % 2; rung + 1 < L; rung += 2) {
            float *lower_h = h + rung * N * H, *upper_h = lower_h + N * H, *lower_y = y + rung * N * V,
                  *upper_y = lower_y + N * V;
            begin(parameters(rung), N);
            const bool alone = independent && rung == 0;
            if (!alone) visible_inputs(upper_h, N, down_y);
            hidden_energies(upper_h, alone ? lower_y : down_y, N, down, alone);
            begin(parameters(rung + 1), N);
            visible_inputs(lower_h, N, up_y);
            hidden_energies(lower_h, up_y, N, up);
            best<RandomTable>().uniform(drawn, N, 1, numbers.data(), draws(rung, of_exchange));
            double *lower = works.data() + (s * (L - 1) + rung) * 2 * N, *upper = lower + N;
            for (std::int64_t n = 0; n < N; ++n) {
                lower[n] = up[n] - own[rung * N + n];
                upper[n] = own[(rung + 1) * N + n] - down[n];
                if (!exchanged(lower[n], upper[n], drawn[n])) continue;
                std::swap_ranges(lower_h + n * H, lower_h + (n + 1) * H, upper_h + n * H);
                if (!alone) std::copy_n(down_y + n * V, V, lower_y + n * V);
                std::copy_n(up_y + n * V, V, upper_y + n * V);
            }
        }
    }
    for (std::int64_t rung = 0; rung < L; ++rung)
        for (std::int64_t n = 0; n < N; ++n) std::copy_n(h + (rung * N + n) * H, H, states.row(n) + rung * H);
}

}  // namespace pyddl::kernels
