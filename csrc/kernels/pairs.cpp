#include "kernels/pairs.hpp"

#include <algorithm>

#include "kernels/product.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

constexpr std::int64_t C_each = PairsTable::large_each, K_each = PairsTable::small_each;

/// Pairs at a time: what a tile of channels reads of them stays in a cache of a core, but there are enough
/// of them to make up for reading and writing the sums.
std::int64_t pairs_each(const ConvolutionShape& s) {
    constexpr std::int64_t bytes = 128 << 10;
    const std::int64_t pair = 4 * (s.large.positions() * C_each + s.small.positions() * K_each);
    return std::max<std::int64_t>(1, bytes / pair);
}

}  // namespace

bool pairs_fit(const ConvolutionShape& s, std::int64_t rows) {
    return simd_level() >= 4 && has_bfloat16() && !has_tiles() && rows > 1 && s.kernel > 1 &&
           s.large.channels % C_each == 0 && s.small.channels % K_each == 0;
}

std::size_t pairs_scratch(const ConvolutionShape& s) {
    return 2 * sizeof(Bfloat16) * pairs_each(s) * (s.large.size() + s.small.size());
}

void pairs_gradient(const ConvolutionShape& s, std::int64_t rows, const Bfloat16* large, const Bfloat16* small,
                    float* gradients, bool add, void* scratch) {
    const auto& table = best<PairsTable>();
    const std::int64_t C = s.large.channels, K = s.small.channels, each = pairs_each(s);
    const std::int64_t of_large = 2 * each * s.large.positions() * C_each;
    const std::int64_t of_small = 2 * each * s.small.positions() * K_each;
    auto* const larges = static_cast<Bfloat16*>(scratch);
    Bfloat16* const smalls = larges + C / C_each * of_large;
    for (std::int64_t first = 0; first < rows; first += 2 * each) {
        const std::int64_t pairs = std::min(each, (rows - first + 1) / 2);
#pragma omp parallel if (rows * s.flops() >= parallel_flops)
        {
#pragma omp for schedule(static) nowait
            for (std::int64_t c = 0; c < C / C_each; ++c)
                table.pack(large + c * C_each, larges + c * of_large, rows, s.large.positions(), C, first, pairs,
                           C_each);
#pragma omp for schedule(static)
            for (std::int64_t k = 0; k < K / K_each; ++k)
                table.pack(small + k * K_each, smalls + k * of_small, rows, s.small.positions(), K, first, pairs,
                           K_each);
#pragma omp for collapse(2) schedule(static)
            for (std::int64_t c = 0; c < C / C_each; ++c)
                for (std::int64_t k = 0; k < K / K_each; ++k)
                    table.gradient(larges + c * of_large, smalls + k * of_small,
                                   gradients + c * C_each * K + k * K_each, s, pairs, add || first > 0);
        }
    }
}

}  // namespace pyddl::kernels
