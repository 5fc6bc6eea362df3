/// Element types of products' operands.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

enum class Element { float32, bfloat16 };

/// The upper half of a float: its sign and exponent, and 7 bits of its mantissa. Storage only; arithmetic is
/// in float.
struct Bfloat16 {
    std::uint16_t bits;
};

template <class T>
inline constexpr Element element_of = sizeof(T) == sizeof(Bfloat16) ? Element::bfloat16 : Element::float32;

constexpr std::int64_t bytes_of(Element e) { return e == Element::float32 ? sizeof(float) : sizeof(Bfloat16); }

/// The vectorised passes; see simd.hpp.
struct ConversionTable {
    /// to[i] := from[i] to the nearest, ties to even; NaN stays NaN. Subnormal numbers may become zero.
    void (*to_bfloat16)(const float* from, Bfloat16* to, std::int64_t size);
    void (*to_float32)(const Bfloat16* from, float* to, std::int64_t size);
};

}  // namespace pyddl::kernels
