// The loop of order.hpp, compiled once per x86-64 level (kernels/simd.hpp).
#include "kernels/order.hpp"
#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

inline std::uint32_t mix(std::uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

void rounds(std::uint32_t* left, std::uint32_t* right, std::int64_t count, const OrderNetwork& network) {
    const OrderNetwork f = network;  // a copy: left and right cannot overlap it
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint32_t l = left[i], r = right[i];
        for (int k = 0; k < kOrderRounds; k += 2) {
            l ^= mix(r + f.key[k]) & f.left_mask;
            r ^= mix(l + f.key[k + 1]) & f.right_mask;
        }
        left[i] = l;
        right[i] = r;
    }
}

}  // namespace

template <>
const OrderTable& table<PYDDL_LEVEL, OrderTable>() {
    static constexpr OrderTable t{rounds};
    return t;
}

}  // namespace pyddl::kernels
