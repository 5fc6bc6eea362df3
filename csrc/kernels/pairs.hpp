/// Weight gradients of convolutions in bfloat16, weights := large^T small, on processors whose products add pairs
/// (AVX512_BF16). Letters as in kernels/convolution.hpp; C channels of the larger, K of the smaller picture.
///
/// An instruction adds the products of two neighbours to each sum. Here they are of two rows of the batch: these lie
/// side by side, (B / 2, H, W, C, 2), so that each tap is a shift, padding is never multiplied, and nothing is
/// transposed. oneDNN's kernel for this direction is the slowest of the three, and has 0.6 to 1 times this one's speed.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/convolution.hpp"

namespace pyddl::kernels {

/// Whether the processor has such instructions, and none that multiply tiles (AMX), which oneDNN uses; the channels are
/// multiples of what is computed at a time; there are two rows, and taps enough to make up for the packing.
bool pairs_fit(const ConvolutionShape& shape, std::int64_t rows);

/// Bytes that `scratch` must have.
std::size_t pairs_scratch(const ConvolutionShape& shape);

/// gradients (k, k, C, K) := large^T small of B rows, or added to. Sums are in float, in an order that does not depend
/// on the threads, which share out the channels.
void pairs_gradient(const ConvolutionShape& shape, std::int64_t rows, const Bfloat16* large, const Bfloat16* small,
                    float* gradients, bool add, void* scratch);

/// The vectorised passes; see simd.hpp.
struct PairsTable {
    static constexpr std::int64_t large_each = 8, small_each = 32;  ///< channels at a time

    /// to (pairs, P, channels, 2) := those channels of rows first, first + 1, ... of all (B, P, C); 0 beyond the last.
    void (*pack)(const Bfloat16* all, Bfloat16* to, std::int64_t B, std::int64_t P, std::int64_t C, std::int64_t first,
                 std::int64_t pairs, std::int64_t channels);

    /// gradients := or += large^T small of that many pairs, packed; all taps of 8 by 32 channels of (k, k, C, K).
    void (*gradient)(const Bfloat16* large, const Bfloat16* small, float* gradients, const ConvolutionShape& shape,
                     std::int64_t pairs, bool add);
};

}  // namespace pyddl::kernels
