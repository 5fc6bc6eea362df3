/// Helpers on flat float32 vectors, each one pass over memory.
///
/// Results do not depend on threads or SIMD level: elements are computed by themselves with IEEE operations
/// that no compiler may contract, and the sum is taken in a fixed order. `into` and `x` do not overlap.
/// Nothing allocates.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

struct VectorTable {
    /// into += x
    void (*add)(float* into, const float* x, std::int64_t n);

    /// into += scale x
    void (*add_scaled)(float* into, const float* x, std::int64_t n, float scale);

    /// into += weight (x - into)
    void (*approach)(float* into, const float* x, std::int64_t n, float weight);

    /// x *= factor
    void (*scale)(float* x, std::int64_t n, float factor);

    /// Sum of x^2 in double precision: 64 segments of neighbours, 16 interleaved partial sums in each, added
    /// in order. Squares of floats are exact in double precision, so the only roundings are those of the
    /// sums.
    double (*sum_of_squares)(const float* x, std::int64_t n);

    /// Index of the first NaN or infinity, -1 if there is none.
    std::int64_t (*first_not_finite)(const float* x, std::int64_t n);
};

}  // namespace pyddl::kernels
