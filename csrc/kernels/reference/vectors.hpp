/// The plain version of kernels/vectors.hpp; the oracle of the tests.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/vectors.hpp"

namespace pyddl::kernels::reference {

inline void add(float* into, const float* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) into[i] += x[i];
}

inline void add_scaled(float* into, const float* x, std::int64_t n, float scale) {
    for (std::int64_t i = 0; i < n; ++i) into[i] += scale * x[i];
}

inline void approach(float* into, const float* x, std::int64_t n, float weight) {
    for (std::int64_t i = 0; i < n; ++i) into[i] += weight * (x[i] - into[i]);
}

inline void scale(float* x, std::int64_t n, float factor) {
    for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

inline double sum_of_squares(const float* x, std::int64_t n) {
    long double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<long double>(x[i]) * x[i];
    return static_cast<double>(sum);
}

inline std::int64_t first_not_finite(const float* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i)
        if (!std::isfinite(x[i])) return i;
    return -1;
}

inline constexpr VectorTable vectors{add, add_scaled, approach, scale, sum_of_squares, first_not_finite};

}  // namespace pyddl::kernels::reference
