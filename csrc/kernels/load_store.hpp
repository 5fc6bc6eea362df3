/// Elements in memory as floats in registers, for levelled sources (simd.hpp).
#pragma once
#include <cstdint>

#include "kernels/element.hpp"
#if PYDDL_LEVEL == 4
#include <immintrin.h>
#endif

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

constexpr std::int64_t line = 16;  // floats

/// to[0, line) := from[0, line), each rounded as above; subnormal numbers may become zero.
[[gnu::always_inline]] inline void store_line(Bfloat16* to, const float* from) {
#if PYDDL_LEVEL == 4
    // x86-64-v4 does not include AVX512_BF16, so compilers refuse its intrinsics here, where they are to be inlined.
    if (__builtin_cpu_supports("avx512bf16")) {
        __m256i rounded;
        asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(_mm512_loadu_ps(from)));
        return _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), rounded);
    }
#endif
#pragma omp simd
    for (std::int64_t i = 0; i < line; ++i) store(to + i, from[i]);
}

/// The same of `size` floats.
inline void store(Bfloat16* to, const float* from, std::int64_t size) {
    std::int64_t i = 0;
    for (; i + line <= size; i += line) store_line(to + i, from + i);
    for (; i < size; ++i) store(to + i, from[i]);
}

}  // namespace
}  // namespace pyddl::kernels
