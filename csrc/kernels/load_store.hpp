/// Elements in memory as floats in registers, for levelled sources (simd.hpp).
#pragma once
#include <cstdint>

#include "kernels/element.hpp"

namespace pyddl::kernels {
namespace {

[[gnu::always_inline]] inline float load(const float* p) { return *p; }

[[gnu::always_inline]] inline float load(const Bfloat16* p) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(p->bits) << 16);
}

[[gnu::always_inline]] inline void store(float* p, float x) { *p = x; }

/// Rounds to the nearest, ties to even. A NaN keeps its upper half, made quiet, lest rounding turn it into
/// infinity.
[[gnu::always_inline]] inline void store(Bfloat16* p, float x) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    p->bits = static_cast<std::uint16_t>((x != x ? bits | 0x400000u : rounded) >> 16);
}

}  // namespace
}  // namespace pyddl::kernels
