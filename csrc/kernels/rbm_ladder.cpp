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

/// out (rows) := free energies of hidden units h, whose visible units have the inputs y.
void Rbm::hidden_energies(const float* h, const float* y, std::int64_t rows, double* out) {
    const RbmTable& loops = best<RbmTable>();
    const std::int64_t V = shape_.visible, H = shape_.hidden;
    double* dots = static_cast<double*>(dots_.reserve(std::max<std::int64_t>(rows, 1) * sizeof(double)));
    loops.dot_rows(h, rows, H, hidden_bias(parameters_), dots);
    if (!gaussian()) {
        loops.row_softplus(y, rows, V, 1.0f, out);
        for (std::int64_t r = 0; r < rows; ++r) out[r] = -out[r] - dots[r];
        return;
    }
    const auto *variance = static_cast<const float*>(variance_.data()),
               *half = static_cast<const float*>(half_precision_.data());
    const float* const b = visible_bias(parameters_);
    double constant = 0;
    for (std::int64_t i = 0; i < V; ++i) constant += std::log(2 * std::numbers::pi * variance[i]) / 2;
    for (std::int64_t r = 0; r < rows; ++r) {
        double sum = constant;
        for (std::int64_t i = 0; i < V; ++i) {
            const double mean = y[r * V + i];
            sum += half[i] * (mean * mean - static_cast<double>(b[i]) * b[i]);
        }
        out[r] = -sum - dots[r];
    }
}

void Rbm::hidden_free_energy(std::span<const float> parameters, MatrixView<const float> h, std::span<double> out) {
    check_shape("h", h, h.rows, shape_.hidden);
    check_size("out", out, h.rows);
    const std::lock_guard lock(busy_);
    const ThreadScope scope;
    begin(parameters, h.rows);
    auto* y = static_cast<float*>(visible_.reserve(std::max<std::int64_t>(h.rows * shape_.visible, 1) * sizeof(float)));
    visible_inputs(h.data, h.rows, y);
    hidden_energies(h.data, y, h.rows, out.data());
}

/// Each chain of the turn and one state of its reservoir change places, or do not. y (N, V) := inputs of the visible
/// units of the chains' states afterwards.
void Rbm::exchange(const RbmTurn& t, float* y, const RandomKey& key) {
    const RbmReservoir& r = t.reservoir;
    const std::int64_t N = t.chains.rows, V = shape_.visible, H = shape_.hidden, R = r.energies.columns;
    const auto floats = [](Scratch& scratch, std::int64_t count) {
        return static_cast<float*>(scratch.reserve(std::max<std::int64_t>(count, 1) * sizeof(float)));
    };
    float *drawn = floats(places_, 2 * N), *others = floats(hidden_, N * H),
          *other_y = floats(ladder_inputs_, 2 * N * V), *below_y = other_y + N * V;
    auto* energies = static_cast<double*>(ladder_energies_.reserve(std::max<std::int64_t>(3 * N, 1) * sizeof(double)));
    double *own = energies, *other = own + N, *below = other + N;
    best<RandomTable>().uniform(drawn, N, 2, t.numbers.data(), key);
    const auto member = [&](std::int64_t n) {
        return std::min(R - 1, static_cast<std::int64_t>(drawn[2 * n] * static_cast<float>(R)));
    };
    for (std::int64_t n = 0; n < N; ++n) std::copy_n(r.states.row(n) + member(n) * H, H, others + n * H);
    visible_inputs(t.chains.data, N, y);
    hidden_energies(t.chains.data, y, N, own);
    visible_inputs(others, N, other_y);
    hidden_energies(others, other_y, N, other);
    const Element in = in_;
    begin(r.parameters, N);
    in_ = in;
    visible_inputs(t.chains.data, N, below_y);
    hidden_energies(t.chains.data, below_y, N, below);
    begin(t.parameters, N, t.rounded);
    in_ = in;
    for (std::int64_t n = 0; n < N; ++n) {
        float* const kept = r.energies.row(n) + member(n);
        const double lower = other[n] - static_cast<double>(*kept), upper = own[n] - below[n];
        r.works.row(n)[0] = static_cast<float>(lower);
        r.works.row(n)[1] = static_cast<float>(upper);
        if (!exchanged(lower, upper, drawn[2 * n + 1])) continue;
        std::swap_ranges(t.chains.row(n), t.chains.row(n) + H, r.states.row(n) + member(n) * H);
        std::copy_n(other_y + n * V, V, y + n * V);
        *kept = static_cast<float>(below[n]);
    }
}

void Rbm::climb(MatrixView<const float> rungs, MatrixView<float> states, std::span<const std::int64_t> numbers,
                const RandomKey& key, std::int64_t first, std::int64_t sweeps, std::span<double> works,
                MatrixView<double> energies) {
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
            visible_sample(its_y, N, numbers.data(), draws(rung, of_visible));
            hidden_inputs(its_y, N, x);
            best<RandomTable>().bernoulli_of_logits(its_h, nullptr, x, N, H, numbers.data(), draws(rung, of_hidden));
            visible_inputs(its_h, N, its_y);
            hidden_energies(its_h, its_y, N, own + rung * N);
        }
        std::copy_n(own + (L - 1) * N, N, energies.row(s));
        for (std::int64_t rung = (first + s) % 2; rung + 1 < L; rung += 2) {
            float *lower_h = h + rung * N * H, *upper_h = lower_h + N * H, *lower_y = y + rung * N * V,
                  *upper_y = lower_y + N * V;
            begin(parameters(rung), N);
            visible_inputs(upper_h, N, down_y);
            hidden_energies(upper_h, down_y, N, down);
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
                std::copy_n(down_y + n * V, V, lower_y + n * V);
                std::copy_n(up_y + n * V, V, upper_y + n * V);
            }
        }
    }
    for (std::int64_t rung = 0; rung < L; ++rung)
        for (std::int64_t n = 0; n < N; ++n) std::copy_n(h + (rung * N + n) * H, H, states.row(n) + rung * H);
}

}  // namespace pyddl::kernels
