/// The plain version of kernels/random.hpp: one number at a time, double precision. The oracle of the tests;
/// its normal numbers differ from the fast ones by rounding.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/random.hpp"

namespace pyddl::kernels::reference {

/// Philox4x32-10 as in figure 2 of the paper: multiply, swap, add the key, ten times.
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        if (round > 0) key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
        const std::uint64_t product0 = 0xD2511F53ull * counter[0], product1 = 0xCD9E8D57ull * counter[2];
        const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
        const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x & 0xffffffffu); };
        counter = {high(product1) ^ counter[1] ^ key[0], low(product1), high(product0) ^ counter[3] ^ key[1],
                   low(product0)};
    }
    return counter;
}

/// The word of one unit of one row.
inline std::uint32_t word(std::int64_t index, std::int64_t unit, const RandomKey& k) {
    const std::uint64_t i = static_cast<std::uint64_t>(index), u = static_cast<std::uint64_t>(unit);
    const auto words = philox({static_cast<std::uint32_t>(u / 4), static_cast<std::uint32_t>(i & 0xffffffffu),
                               static_cast<std::uint32_t>(k.step & 0xffffffffu),
                               static_cast<std::uint32_t>((i >> 32) + ((k.step >> 32) << 8) + (k.substep << 16))},
                              {static_cast<std::uint32_t>(k.seed & 0xffffffffu),
                               static_cast<std::uint32_t>((k.seed >> 32) + (k.purpose << 16))});
    return words[u % 4];
}

inline float uniform_number(std::int64_t index, std::int64_t unit, const RandomKey& k) {
    return static_cast<float>(word(index, unit, k) >> 8) / 16777216.0f;
}

inline float normal_number(std::int64_t index, std::int64_t unit, const RandomKey& k) {
    const double first = word(index, unit / 2 * 2, k), second = word(index, unit / 2 * 2 + 1, k);
    const double radius = std::sqrt(-2 * std::log((first + 1) / 4294967296.0));
    const double angle = 2 * std::numbers::pi * (second / 4294967296.0);
    return static_cast<float>(radius * (unit % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

inline void philox4x32(const std::uint32_t* counter, const std::uint32_t* key, std::uint32_t* out, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
        const auto words = philox({counter[4 * i], counter[4 * i + 1], counter[4 * i + 2], counter[4 * i + 3]},
                                  {key[2 * i], key[2 * i + 1]});
        for (std::int64_t j = 0; j < 4; ++j) out[4 * i + j] = words[static_cast<std::size_t>(j)];
    }
}

inline void uniform(float* out, std::int64_t rows, std::int64_t units, const std::int64_t* index, const RandomKey& k) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t u = 0; u < units; ++u) out[r * units + u] = uniform_number(index[r], u, k);
}

inline void normal(float* out, std::int64_t rows, std::int64_t units, const std::int64_t* index, const RandomKey& k) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t u = 0; u < units; ++u) out[r * units + u] = normal_number(index[r], u, k);
}

inline void bernoulli(float* out, const float* p, std::int64_t rows, std::int64_t units, const std::int64_t* index,
                      const RandomKey& k) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t u = 0; u < units; ++u)
            out[r * units + u] = uniform_number(index[r], u, k) < p[r * units + u] ? 1.0f : 0.0f;
}

inline void bernoulli_of_logits(float* out, float* mean, const float* x, std::int64_t rows, std::int64_t units,
                                const std::int64_t* index, const RandomKey& k) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t u = 0; u < units; ++u) {
            const auto p = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x[r * units + u]))));
            if (mean) mean[r * units + u] = p;
            out[r * units + u] = uniform_number(index[r], u, k) < p ? 1.0f : 0.0f;
        }
}

inline constexpr RandomTable random{philox4x32, uniform, normal, bernoulli, bernoulli_of_logits};

}  // namespace pyddl::kernels::reference
