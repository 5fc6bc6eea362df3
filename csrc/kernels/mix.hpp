/// Mixing of integers: counters and keys become numbers without visible pattern.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// A bijection of 64 bits: one step of SplitMix64, which is a Weyl sequence through this mixer.
/// Source: Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators, OOPSLA, 453-472.
constexpr std::uint64_t mix64(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

}  // namespace pyddl::kernels
