/// Plain loops for Boltzmann machines in double: the oracle of the fast kernels. Letters as in kernels/rbm.hpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/matrix_view.hpp"

namespace pyddl::kernels::reference {

using Matrix = MatrixView<const double>;
using Vector = std::span<const double>;

/// s^2 (V), empty: Bernoulli units.
inline double input_of(Vector s2, std::int64_t i, double v) { return s2.empty() ? v : v / s2[i]; }

/// out (B, H) := u w + c.
inline void rbm_hidden_inputs(Matrix v, Matrix w, Vector c, Vector s2, MatrixView<double> out) {
    for (std::int64_t b = 0; b < v.rows; ++b)
        for (std::int64_t j = 0; j < w.columns; ++j) {
            double x = c[j];
            for (std::int64_t i = 0; i < w.rows; ++i) x += input_of(s2, i, v.row(b)[i]) * w.row(i)[j];
            out.row(b)[j] = x;
        }
}

/// out (B) := F(v).
inline void rbm_free_energy(Matrix v, Matrix w, Vector b, Vector c, Vector s2, std::span<double> out) {
    std::vector<double> x(static_cast<std::size_t>(v.rows * w.columns));
    rbm_hidden_inputs(v, w, c, s2, {x.data(), v.rows, w.columns});
    for (std::int64_t r = 0; r < v.rows; ++r) {
        double energy = 0;
        for (std::int64_t i = 0; i < w.rows; ++i) {
            const double value = v.row(r)[i];
            energy += s2.empty() ? -b[i] * value : (value - b[i]) * (value - b[i]) / (2 * s2[i]);
        }
        for (std::int64_t j = 0; j < w.columns; ++j) energy -= std::log1p(std::exp(x[r * w.columns + j]));
        out[r] = energy;
    }
}

/// log of the sum of exp(-E) over all states of all hidden units and, Bernoulli ones, all visible units.
inline double rbm_log_partition(Matrix w, Vector b, Vector c, Vector s2) {
    double sum = 0;
    for (std::int64_t state = 0; state < std::int64_t{1} << w.columns; ++state) {
        double log = 0;
        for (std::int64_t j = 0; j < w.columns; ++j) log += (state >> j & 1) ? c[j] : 0;
        for (std::int64_t i = 0; i < w.rows; ++i) {
            double y = b[i];
            for (std::int64_t j = 0; j < w.columns; ++j) y += (state >> j & 1) ? w.row(i)[j] : 0;
            log += s2.empty() ? std::log1p(std::exp(y))
                              : (y * y - b[i] * b[i]) / (2 * s2[i]) + std::log(2 * M_PI * s2[i]) / 2;
        }
        sum += std::exp(log);
    }
    return std::log(sum);
}

}  // namespace pyddl::kernels::reference
