/// Forward product of a dense layer for few rows, where packing the weights, as a general product does, costs as much
/// as multiplying: here each weight is read once, in place.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// Up to this many rows the product below beats a general one, whatever the other sizes (measured on Zen 4).
inline constexpr std::int64_t few_rows = 12;

/// Whether the product below beats a general one. It ends with a sum across lanes, which long rows make up for.
constexpr bool suits_few_rows(std::int64_t rows, std::int64_t inputs) {
    return rows <= few_rows || (rows <= 32 && inputs >= 512);
}

/// The vectorised pass; see simd.hpp. B rows, I inputs, O outputs; row-major and contiguous.
struct FewRowsTable {
    /// out (B, O) := rows (B, I) weights (O, I)^T + bias (O), or null: none. Sums do not depend on the threads.
    void (*forward)(const float* rows, const float* weights, const float* bias, float* out, std::int64_t B,
                    std::int64_t I, std::int64_t O);
};

}  // namespace pyddl::kernels
