/// Keys of random numbers, checked.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/random.hpp"

namespace pyddl::bindings {

/// @throws std::invalid_argument (ValueError) when the value is not from 0 to `values` - 1
inline std::uint64_t field(const char* name, std::int64_t value, std::uint64_t values) {
    if (value < 0 || static_cast<std::uint64_t>(value) >= values)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    "; expected a whole number from 0 to " + std::to_string(values - 1));
    return static_cast<std::uint64_t>(value);
}

inline kernels::RandomKey key_of(std::int64_t seed, std::int64_t purpose, std::int64_t step, std::int64_t substep = 0) {
    using kernels::RandomKey;
    return {field("seed", seed, RandomKey::seeds), field("purpose", purpose, RandomKey::purposes),
            field("step", step, RandomKey::steps), field("substep", substep, RandomKey::substeps)};
}

}  // namespace pyddl::bindings
