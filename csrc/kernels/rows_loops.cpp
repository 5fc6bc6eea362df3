// The loops of rows.hpp, compiled once per x86-64 level (kernels/simd.hpp).
#include "kernels/rows.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

// All exponent bits set: NaN or infinite. Integers, so that no compiler flag can reason the test away.
inline std::uint32_t is_not_finite(float x) {
    return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) == 0x7f800000u;
}

template <class T>
bool convert(const T* from, std::int64_t stride, float* to, std::int64_t n, float scale) {
    std::uint32_t bad = 0;
    if (stride == 1) {
#pragma omp simd reduction(| : bad)
        for (std::int64_t i = 0; i < n; ++i) {
            to[i] = static_cast<float>(from[i]) * scale;
            bad |= is_not_finite(to[i]);
        }
    } else {
        for (std::int64_t i = 0; i < n; ++i) {
            to[i] = static_cast<float>(from[i * stride]) * scale;
            bad |= is_not_finite(to[i]);
        }
    }
    return bad != 0;
}

bool convert_u8(const std::uint8_t* from, std::int64_t stride, float* to, std::int64_t n, float scale) {
    if (stride == 1) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]) * scale;
    } else {
        for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i * stride]) * scale;
    }
    return false;
}

void uniform(std::uint64_t key, float* to, std::int64_t n) {
    const auto start = static_cast<std::uint32_t>(key);
    const auto twist = static_cast<std::uint32_t>(key >> 32);
#pragma omp simd
    for (std::int64_t j = 0; j < n; ++j) {
        // The start alone would make rows shifted copies of each other; the twist between the rounds parts
        // them.
        std::uint32_t x = static_cast<std::uint32_t>(j) * 0x9e3779b9u + start;
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = ((x ^ (x >> 15)) + twist) * 0x846ca68bu;
        x ^= x >> 16;
        to[j] = static_cast<float>(static_cast<std::int32_t>(x >> 8)) * 0x1p-24f;
    }
}

}  // namespace

template <>
const RowsTable& table<PYDDL_LEVEL, RowsTable>() {
    static constexpr RowsTable t{convert_u8, convert<float>, convert<double>, uniform};
    return t;
}

}  // namespace pyddl::kernels
