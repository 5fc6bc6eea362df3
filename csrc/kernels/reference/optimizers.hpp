/// The plain version of kernels/optimizers.hpp: one obvious loop per rule, double precision inside, formulas
/// in the order of the papers. Slow; the oracle of the tests.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/optimizers.hpp"

namespace pyddl::kernels::reference {

inline double full_gradient(double p, double g, const UpdateOptions& o) { return o.scale * g + o.weight_decay * p; }

inline float projected(double p, const UpdateOptions& o) {
    const double bound = o.bound;
    return static_cast<float>(std::isnan(p) ? p : std::clamp(p, -bound, bound));
}

/// The upper half of each p, rounded to the nearest, ties to even.
inline void round(const float* p, std::int64_t n, const UpdateOptions& o) {
    for (std::int64_t i = 0; i < n && o.rounded != nullptr; ++i) {
        const auto bits = std::bit_cast<std::uint32_t>(p[i]);
        const std::uint32_t up = (bits & 0xffffu) > 0x8000u || (bits & 0x1ffffu) == 0x18000u;
        o.rounded[i].bits = static_cast<std::uint16_t>(std::isnan(p[i]) ? bits >> 16 | 0x40u : (bits >> 16) + up);
    }
}

inline void sgd(float* p, const float* g, std::int64_t n, const UpdateOptions& o) {
    for (std::int64_t i = 0; i < n; ++i) p[i] = projected(p[i] - o.learning_rate * full_gradient(p[i], g[i], o), o);
    round(p, n, o);
}

inline void momentum(float* p, const float* g, float* velocity, std::int64_t n, const UpdateOptions& o,
                     float momentum) {
    for (std::int64_t i = 0; i < n; ++i) {
        const double v = static_cast<double>(momentum) * velocity[i] - o.learning_rate * full_gradient(p[i], g[i], o);
        velocity[i] = static_cast<float>(v);
        p[i] = projected(p[i] + v, o);
    }
    round(p, n, o);
}

/// Goes back to theta, takes Sutskever's step there and looks ahead again.
inline void nesterov(float* p, const float* g, float* velocity, std::int64_t n, const UpdateOptions& o, float momentum,
                     float next_momentum) {
    for (std::int64_t i = 0; i < n; ++i) {
        const double theta = p[i] - static_cast<double>(momentum) * velocity[i];
        const double v = static_cast<double>(momentum) * velocity[i] - o.learning_rate * full_gradient(p[i], g[i], o);
        velocity[i] = static_cast<float>(v);
        p[i] = projected((theta + v) + next_momentum * v, o);
    }
    round(p, n, o);
}

inline void adagrad(float* p, const float* g, float* sum, std::int64_t n, const UpdateOptions& o, float epsilon) {
    for (std::int64_t i = 0; i < n; ++i) {
        const double gradient = full_gradient(p[i], g[i], o);
        const double s = sum[i] + gradient * gradient;
        sum[i] = static_cast<float>(s);
        p[i] = projected(p[i] - o.learning_rate * gradient / (std::sqrt(s) + epsilon), o);
    }
    round(p, n, o);
}

inline void rmsprop(float* p, const float* g, float* square, std::int64_t n, const UpdateOptions& o, double decay,
                    float epsilon) {
    for (std::int64_t i = 0; i < n; ++i) {
        const double gradient = full_gradient(p[i], g[i], o);
        const double s = decay * square[i] + (1 - decay) * gradient * gradient;
        square[i] = static_cast<float>(s);
        p[i] = projected(p[i] - o.learning_rate * gradient / (std::sqrt(s) + epsilon), o);
    }
    round(p, n, o);
}

inline void adadelta(float* p, const float* g, float* square, float* change_square, std::int64_t n,
                     const UpdateOptions& o, double decay, float epsilon) {
    const double e = epsilon;
    for (std::int64_t i = 0; i < n; ++i) {
        const double gradient = full_gradient(p[i], g[i], o);
        const double s = decay * square[i] + (1 - decay) * gradient * gradient;
        const double change = gradient * std::sqrt(change_square[i] + e) / std::sqrt(s + e);
        square[i] = static_cast<float>(s);
        change_square[i] = static_cast<float>(decay * change_square[i] + (1 - decay) * change * change);
        p[i] = projected(p[i] - o.learning_rate * change, o);
    }
    round(p, n, o);
}

inline void adam_step(float* p, const float* g, float* first, float* second, std::int64_t n, const UpdateOptions& o,
                      double beta1, double beta2, float epsilon, std::int64_t step, bool decoupled) {
    const double t = static_cast<double>(step + 1);
    for (std::int64_t i = 0; i < n; ++i) {
        const double gradient = decoupled ? static_cast<double>(o.scale) * g[i] : full_gradient(p[i], g[i], o);
        const double start =
            decoupled ? p[i] - static_cast<double>(o.learning_rate) * o.weight_decay * p[i] : static_cast<double>(p[i]);
        const double m = beta1 * first[i] + (1 - beta1) * gradient;
        const double v = beta2 * second[i] + (1 - beta2) * gradient * gradient;
        first[i] = static_cast<float>(m);
        second[i] = static_cast<float>(v);
        const double m_hat = m / (1 - std::pow(beta1, t)), v_hat = v / (1 - std::pow(beta2, t));
        p[i] = projected(start - o.learning_rate * m_hat / (std::sqrt(v_hat) + epsilon), o);
    }
    round(p, n, o);
}

inline void adam(float* p, const float* g, float* first, float* second, std::int64_t n, const UpdateOptions& o,
                 double beta1, double beta2, float epsilon, std::int64_t step) {
    adam_step(p, g, first, second, n, o, beta1, beta2, epsilon, step, false);
}

inline void adamw(float* p, const float* g, float* first, float* second, std::int64_t n, const UpdateOptions& o,
                  double beta1, double beta2, float epsilon, std::int64_t step) {
    adam_step(p, g, first, second, n, o, beta1, beta2, epsilon, step, true);
}

inline constexpr OptimizerTable optimizers{sgd, momentum, nesterov, adagrad, rmsprop, adadelta, adam, adamw};

}  // namespace pyddl::kernels::reference
