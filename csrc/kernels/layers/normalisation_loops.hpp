/// Loops of batch and layer normalisation. Letters: R rows of C channels; B rows of P places of C channels.
/// Sums are taken in float over blocks of 32 rows, then in double, in an order that does not depend on the threads.
#pragma once
#include <cstdint>

#include "kernels/activations.hpp"
#include "kernels/element.hpp"

namespace pyddl::kernels {

/// Out is In, or float. The vectorised passes; see simd.hpp.
template <class In, class Out>
struct NormalisationTable {
    /// mean (C) of the rows of x, and squares (C), the sum of (x - mean)^2. By blocks, which Chan, Golub and LeVeque
    /// (1979) join: as exact as two passes, for one read of memory.
    void (*statistics)(const In* x, std::int64_t R, std::int64_t C, double* mean, double* squares);

    /// y := activation((x - mean) scale + shift); relu or linear
    void (*normalise)(const In* x, Out* y, std::int64_t R, std::int64_t C, const float* mean, const float* scale,
                      const float* shift, bool relu);

    /// sums (C) of delta, and moments (C) of delta (x - mean)
    void (*moments)(const In* x, const In* delta, std::int64_t R, std::int64_t C, const float* mean, double* sums,
                    double* moments);

    /// below := a delta + b (x - mean) + c
    void (*combine)(const In* x, const In* delta, Out* below, std::int64_t R, std::int64_t C, const float* mean,
                    const float* a, const float* b, const float* c);

    /// y := (x - m) r scale + shift, with m and r, 1 / sqrt(variance + epsilon), of each row; of_rows (B, 2) := m, r
    void (*normalise_rows)(const In* x, Out* y, std::int64_t B, std::int64_t P, std::int64_t C, const float* scale,
                           const float* shift, float epsilon, float* of_rows);

    /// below := derivative of that; no data: not wanted. scale_sums (C), or null: sums of delta (x - m) r
    void (*rows_backward)(const In* x, const In* delta, Out* below, std::int64_t B, std::int64_t P, std::int64_t C,
                          const float* scale, const float* of_rows, double* scale_sums);
};

}  // namespace pyddl::kernels
