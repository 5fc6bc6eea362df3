#include "kernels/vectors.hpp"

#include "kernels/simd.hpp"

namespace pyddl::kernels {
namespace {

constexpr std::int64_t parallel_from = 1 << 16;  // below, waking threads costs more than the pass
constexpr int segments = 64;                     // of a long vector: the unit of work of a thread, however many there are
constexpr int lanes = 16;

void add(float* into, const float* x, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n >= parallel_from)
    for (std::int64_t i = 0; i < n; ++i) into[i] += x[i];
}

void add_scaled(float* into, const float* x, std::int64_t n, float scale) {
#pragma omp parallel for simd schedule(static) if (n >= parallel_from)
    for (std::int64_t i = 0; i < n; ++i) into[i] += scale * x[i];
}

void scale(float* x, std::int64_t n, float factor) {
#pragma omp parallel for simd schedule(static) if (n >= parallel_from)
    for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

/// Length of a segment: a 64th, rounded up to whole blocks of lanes; small vectors fill fewer segments.
std::int64_t segment_length(std::int64_t n) {
    const std::int64_t least = 1024;
    const std::int64_t length = (n + segments - 1) / segments;
    return length < least ? least : (length + lanes - 1) / lanes * lanes;
}

double segment_sum_of_squares(const float* x, std::int64_t n) {
    double sums[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
#pragma omp simd
        for (int j = 0; j < lanes; ++j) {
            const double value = x[i + j];
            sums[j] += value * value;
        }
    }
    for (int j = 0; i + j < n; ++j) {
        const double value = x[i + j];
        sums[j] += value * value;
    }
    double total = 0;
    for (int j = 0; j < lanes; ++j) total += sums[j];
    return total;
}

double sum_of_squares(const float* x, std::int64_t n) {
    const std::int64_t length = segment_length(n);
    double sums[segments] = {};
#pragma omp parallel for schedule(static) if (n >= parallel_from)
    for (int s = 0; s < segments; ++s) {
        const std::int64_t begin = s * length, rest = n - begin;
        if (rest > 0) sums[s] = segment_sum_of_squares(x + begin, rest < length ? rest : length);
    }
    double total = 0;
    for (int s = 0; s < segments; ++s) total += sums[s];
    return total;
}

bool not_finite(float x) { return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) == 0x7f800000u; }

std::int64_t segment_first_not_finite(const float* x, std::int64_t n) {
    constexpr std::int64_t block = 256;  // looked at as a whole, so that the loop vectorises
    for (std::int64_t begin = 0; begin < n; begin += block) {
        const std::int64_t end = begin + block < n ? begin + block : n;
        std::uint32_t found = 0;
#pragma omp simd reduction(| : found)
        for (std::int64_t i = begin; i < end; ++i) found |= not_finite(x[i]) ? 1u : 0u;
        if (!found) continue;
        for (std::int64_t i = begin; i < end; ++i)
            if (not_finite(x[i])) return i;
    }
    return -1;
}

std::int64_t first_not_finite(const float* x, std::int64_t n) {
    const std::int64_t length = segment_length(n);
    std::int64_t found[segments];
#pragma omp parallel for schedule(static) if (n >= parallel_from)
    for (int s = 0; s < segments; ++s) {
        const std::int64_t begin = s * length, rest = n - begin;
        const std::int64_t at = rest > 0 ? segment_first_not_finite(x + begin, rest < length ? rest : length) : -1;
        found[s] = at < 0 ? -1 : begin + at;
    }
    for (int s = 0; s < segments; ++s)
        if (found[s] >= 0) return found[s];
    return -1;
}

}  // namespace

template <>
const VectorTable& table<PYDDL_LEVEL, VectorTable>() {
    static constexpr VectorTable t{add, add_scaled, scale, sum_of_squares, first_not_finite};
    return t;
}

}  // namespace pyddl::kernels
