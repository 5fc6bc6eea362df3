#include "kernels/order.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "kernels/mix.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {

OrderNetwork order_network(std::int64_t n, std::uint64_t seed, std::uint64_t epoch) {
    const auto largest = static_cast<std::uint64_t>(n > 1 ? n - 1 : 0);
    const int bits = std::max(8, static_cast<int>(std::bit_width(largest)));
    OrderNetwork network{};
    network.right_bits = bits - bits / 2;
    network.left_mask = (1u << (bits / 2)) - 1;
    network.right_mask = (1u << network.right_bits) - 1;
    std::uint64_t state = mix64(mix64(seed) ^ epoch);
    for (auto& key : network.key) {
        key = static_cast<std::uint32_t>(mix64(state) >> 32);
        state += 0x9e3779b97f4a7c15u;
    }
    return network;
}

void order(std::span<const std::int64_t> positions, std::span<std::int64_t> out, std::int64_t n, std::uint64_t seed,
           std::uint64_t epoch) {
    if (positions.size() != out.size())
        throw std::invalid_argument("out has " + std::to_string(out.size()) +
                                    " elements; expected one for each of the " + std::to_string(positions.size()) +
                                    " positions");
    if (n < 0 || n > std::int64_t{1} << 62)
        throw std::invalid_argument("n is " + std::to_string(n) + "; expected 0 to 2^62");
    for (std::size_t i = 0; i < positions.size(); ++i)
        if (positions[i] < 0 || positions[i] >= n)
            throw std::out_of_range("positions[" + std::to_string(i) + "] is " + std::to_string(positions[i]) +
                                    "; expected 0 to " + std::to_string(n - 1));

    const OrderNetwork network = order_network(n, seed, epoch);
    constexpr std::int64_t block = 256;  // 4 KB of working memory: stays in the first cache
    std::uint32_t left[block], right[block];
    std::int64_t owner[block];  // whose value each lane holds
    const auto total = static_cast<std::int64_t>(positions.size());
    for (std::int64_t first = 0; first < total; first += block) {
        std::int64_t walking = std::min(block, total - first);
        for (std::int64_t i = 0; i < walking; ++i) {
            const auto x = static_cast<std::uint64_t>(positions[first + i]);
            left[i] = static_cast<std::uint32_t>(x >> network.right_bits);
            right[i] = static_cast<std::uint32_t>(x) & network.right_mask;
            owner[i] = first + i;
        }
        while (walking > 0) {
            best<OrderTable>().rounds(left, right, walking, network);
            std::int64_t left_over = 0;
            for (std::int64_t i = 0; i < walking; ++i) {
                const std::uint64_t x = (static_cast<std::uint64_t>(left[i]) << network.right_bits) | right[i];
                out[owner[i]] = static_cast<std::int64_t>(x);
                left[left_over] = left[i];  // kept only when x is out of range: the next lane overwrites it otherwise
                right[left_over] = right[i];
                owner[left_over] = owner[i];
                left_over += x >= static_cast<std::uint64_t>(n);
            }
            walking = left_over;
        }
    }
}

}  // namespace pyddl::kernels
