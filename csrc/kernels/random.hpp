/// Random numbers from counters: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, SC'11, article 16).
///
/// A number is a function of where it is used, not of what was drawn before: of (seed, purpose, step, index
/// of the row, unit, substep), never of the batch around the row, of ranks or of threads. Philox turns a
/// counter of four 32-bit words and a key of two into four words; the layout here is
///
///     key[0]      seed, bits 0 to 31
///     key[1]      seed, bits 32 to 47 | purpose (16 bits) << 16
///     counter[0]  block = unit / 4 (32 bits); word unit % 4 of the result belongs to the unit
///     counter[1]  index, bits 0 to 31
///     counter[2]  step, bits 0 to 31
///     counter[3]  index, bits 32 to 39 | step, bits 32 to 39, << 8 | substep (16 bits) << 16
///
/// Letters here and in random.cpp: B rows, U units. Matrices are row-major and contiguous.
///
/// Only integer operations and IEEE + - * / sqrt are used, with no contraction: values are equal bit for bit
/// on every SIMD level and any number of threads. Cost: arithmetic only; long matrices are split over
/// threads; nothing is allocated.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// What keys a whole matrix of numbers. The row's index and the unit complete it.
struct RandomKey {
    static constexpr std::uint64_t seeds = std::uint64_t{1} << 48, steps = std::uint64_t{1} << 40,
                                   indices = std::uint64_t{1} << 40, purposes = 1 << 16, substeps = 1 << 16;

    std::uint64_t seed;     // below `seeds`
    std::uint64_t purpose;  // below `purposes`; the constants are in pyddl/random.py
    std::uint64_t step;     // below `steps`
    std::uint64_t substep;  // below `substeps`: Gibbs step, second draw for the same unit, ...
};

struct RandomTable {
    /// The function itself on n counters. counter, out (n, 4), key (n, 2); out may be counter.
    void (*philox4x32)(const std::uint32_t* counter, const std::uint32_t* key, std::uint32_t* out, std::int64_t n);

    /// Uniform in [0, 1): the upper 24 bits of a word, times 2^-24. out (B, U), index (B) in [0, 2^40).
    void (*uniform)(float* out, std::int64_t rows, std::int64_t units, const std::int64_t* index, const RandomKey&);

    /// Standard normal (Box, Muller 1958): words 2k and 2k + 1 give units 2k and 2k + 1, the first the radius
    /// by all its 32 bits, so that tails reach 6.66, the second the angle. Error below 1e-6 of the value or
    /// 1e-7.
    void (*normal)(float* out, std::int64_t rows, std::int64_t units, const std::int64_t* index, const RandomKey&);

    /// 1 where the uniform number of the same key is below p, else 0: always 0 for p <= 0, always 1 for p
    /// >= 1. out, p (B, U); out may be p.
    void (*bernoulli)(float* out, const float* p, std::int64_t rows, std::int64_t units, const std::int64_t* index,
                      const RandomKey&);

    /// The same for p = sigmoid(x), in one pass over x. out, x (B, U); out may be x. mean (B, U), unless null, receives
    /// p; it may be x where out is not.
    void (*bernoulli_of_logits)(float* out, float* mean, const float* x, std::int64_t rows, std::int64_t units,
                                const std::int64_t* index, const RandomKey&);
};

}  // namespace pyddl::kernels
