/// The order of samples: a pseudo-random permutation of 0..n-1, evaluated at any position without its
/// neighbours.
///
/// No table and no state, so every rank finds its rows of any step alone, and a data set of 10^12 rows costs
/// nothing. Method: a bijection of [0, 2^b), b = max(8, bits of n - 1), built as a Feistel network, walked
/// along its cycle until the value is below n. A walk from a start below n always returns there and never
/// meets another start's value first, so the result is a bijection of [0, n); fewer than 2 steps are expected
/// for n above 128.
///
/// The value x is cut into l = upper b / 2 bits, r = the others. Twelve rounds, in turn
///     l ^= h(r + key[k]),  r ^= h(l + key[k + 1]),
/// h the 32-bit mixer "lowbias32" of C. Wellons; keys are SplitMix64's numbers of (seed, epoch).
/// Sources: Mitchell, Stokes, Frank, Holmes (2022), Bandwidth-optimal random shuffling for GPUs, ACM TOPC
/// 9(1), arXiv:2106.06161; Black, Rogaway (2002), Ciphers with arbitrary finite domains, CT-RSA (the walk).
#pragma once
#include <cstdint>
#include <span>

namespace pyddl::kernels {

constexpr int kOrderRounds = 12;

/// The keyed network for one (n, seed, epoch).
struct OrderNetwork {
    std::uint32_t key[kOrderRounds];
    std::uint32_t left_mask;
    std::uint32_t right_mask;
    int right_bits;
};

OrderNetwork order_network(std::int64_t n, std::uint64_t seed, std::uint64_t epoch);

/// out[i] = sample at positions[i] of the epoch's order.
/// @param positions each in [0, n)   @param out as long as positions; may be the same memory
/// @throws std::invalid_argument when lengths differ or n is outside [0, 2^62]; std::out_of_range for a
/// position outside, before out is touched Cost: about a dozen vector instructions per position and round.
/// Threads: the caller's. Allocates nothing.
void order(std::span<const std::int64_t> positions, std::span<std::int64_t> out, std::int64_t n, std::uint64_t seed,
           std::uint64_t epoch);

/// The loop behind it, one per x86-64 level.
struct OrderTable {
    /// All rounds on `count` values given as halves, in place.
    void (*rounds)(std::uint32_t* left, std::uint32_t* right, std::int64_t count, const OrderNetwork& network);
};

}  // namespace pyddl::kernels
