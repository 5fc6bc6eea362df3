/// Elementary functions that the compiler can vectorise: no branches, no calls, no tables. For levelled
/// sources only (simd.hpp): everything has internal linkage. NaN gives NaN, which -ffast-math would not keep.
/// Coefficients: polynomials fitted for the least relative error (Lawson's iteration).
#pragma once
#include <cstdint>

namespace pyddl::kernels {
namespace {

/// exp(x) for x <= 0; 0 below -87.3, where the result would be subnormal. Error: 2 ulp.
/// x = n log 2 + r; exp(x) = 2^n exp(r). Multiplying by 2^n, rather than adding n to the exponent's bits,
/// keeps NaN.
[[gnu::always_inline]] inline float exp_of_negative(float x) {
    constexpr float log2e = 1.442695041f, log2_high = 0.693359375f, log2_low = -2.12194440e-4f;
    constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const float in_range = x < -87.3f ? -87.3f : x;
    const float shifted = in_range * log2e + round;
    const float n = shifted - round;
    const float r = (in_range - n * log2_high) - n * log2_low;
    float p = 1.383684195e-03f;
    p = p * r + 8.374815783e-03f;
    p = p * r + 4.166822564e-02f;
    p = p * r + 1.666642017e-01f;
    p = p * r + 4.999999208e-01f;
    p = p * r + 1.000000036e+00f;
    p = p * r + 1.0f;
    const auto bits = __builtin_bit_cast(std::uint32_t, shifted);
    const float power = __builtin_bit_cast(float, (bits + 127u) << 23);  // round's own low bits shift out
    return x < -87.3f ? 0.0f : p * power;
}

/// log(1 + x) for x in [0, 1]. Error: 3 ulp.
[[gnu::always_inline]] inline float log1p_of_unit(float x) {
    float p = 5.232624065e-03f;
    p = p * x - 2.950495746e-02f;
    p = p * x + 7.822549376e-02f;
    p = p * x - 1.366320693e-01f;
    p = p * x + 1.910598849e-01f;
    p = p * x - 2.484297755e-01f;
    p = p * x + 3.331909622e-01f;
    p = p * x - 4.999949311e-01f;
    p = p * x + 1.0f;
    return x * p;
}

/// log(1 + exp(x)). Error: 4 ulp.
[[gnu::always_inline]] inline float softplus(float x) {
    return (x < 0.0f ? 0.0f : x) + log1p_of_unit(exp_of_negative(-__builtin_fabsf(x)));
}

/// 1 - exp(-y) for y >= 0, without cancellation near 0. Error: 3 ulp.
[[gnu::always_inline]] inline float one_minus_exp_of_negative(float y) {
    float p = -1.121634675e-03f;
    p = p * y + 8.187385688e-03f;
    p = p * y - 4.162908900e-02f;
    p = p * y + 1.666622408e-01f;
    p = p * y - 4.999998075e-01f;
    p = p * y + 1.0f;
    return y < 0.5f ? y * p : 1.0f - exp_of_negative(-y);
}

/// 1 / (1 + exp(-x)). Error: 3 ulp.
[[gnu::always_inline]] inline float sigmoid(float x) {
    const float e = exp_of_negative(-__builtin_fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/// tanh(x) = (1 - exp(-2 |x|)) / (1 + exp(-2 |x|)), with x's sign. Error: 4 ulp.
[[gnu::always_inline]] inline float hyperbolic_tangent(float x) {
    const float d = one_minus_exp_of_negative(2.0f * __builtin_fabsf(x));
    const float magnitude = d / (2.0f - d);
    return x < 0.0f ? -magnitude : magnitude;
}

}  // namespace
}  // namespace pyddl::kernels
