/// Slopes of activations from their outputs, for levelled sources (simd.hpp).
#pragma once
#include "kernels/activations.hpp"
#include "kernels/simd_math.hpp"

namespace pyddl::kernels {
namespace {

/// d activation / d input, where the activation's output is y. NaN gives NaN.
template <Activation A>
[[gnu::always_inline]] inline float slope(float y) {
    // Comparisons with NaN are false, so the last alternative of a choice must keep y.
    if constexpr (A == Activation::sigmoid) return y * (1.0f - y);
    if constexpr (A == Activation::relu) return y > 0.0f ? 1.0f : y <= 0.0f ? 0.0f : y;
    if constexpr (A == Activation::leaky_relu) return y > 0.0f ? 1.0f : y <= 0.0f ? leak : y;
    if constexpr (A == Activation::tanh) return 1.0f - y * y;
    if constexpr (A == Activation::softplus) return one_minus_exp_of_negative(y);
    return 1.0f;
}

/// Calls `f` with the activation as a compile-time constant: f.template operator()<A>().
template <class F>
[[gnu::always_inline]] inline auto with_constant(Activation activation, F f) {
    switch (activation) {
        case Activation::sigmoid:
            return f.template operator()<Activation::sigmoid>();
        case Activation::relu:
            return f.template operator()<Activation::relu>();
        case Activation::leaky_relu:
            return f.template operator()<Activation::leaky_relu>();
        case Activation::tanh:
            return f.template operator()<Activation::tanh>();
        case Activation::softplus:
            return f.template operator()<Activation::softplus>();
        case Activation::linear:
            break;
    }
    return f.template operator()<Activation::linear>();
}

}  // namespace
}  // namespace pyddl::kernels
