/// Plain version of order.hpp: one position at a time, on undivided 64-bit values. The oracle of its tests.
#pragma once
#include "kernels/order.hpp"

namespace pyddl::kernels::reference {

inline std::uint64_t order_round_function(std::uint64_t half, std::uint32_t key) {
    auto x = static_cast<std::uint32_t>(half) + key;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

inline std::int64_t order(std::int64_t position, std::int64_t n, std::uint64_t seed, std::uint64_t epoch) {
    const OrderNetwork network = order_network(n, seed, epoch);
    auto x = static_cast<std::uint64_t>(position);
    do {
        for (int k = 0; k < kOrderRounds; k += 2) {
            const std::uint64_t right = x & network.right_mask;
            x ^= (order_round_function(right, network.key[k]) & network.left_mask) << network.right_bits;
            const std::uint64_t left = x >> network.right_bits;
            x ^= order_round_function(left, network.key[k + 1]) & network.right_mask;
        }
    } while (x >= static_cast<std::uint64_t>(n));
    return static_cast<std::int64_t>(x);
}

}  // namespace pyddl::kernels::reference
