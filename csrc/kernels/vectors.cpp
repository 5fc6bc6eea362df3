#include "kernels/vectors.hpp"

#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

constexpr int segments = 64;  // of a long vector: the unit of work of a thread, however many there are
constexpr int lanes = 16;

template <class Element>
void one_thread(std::int64_t begin, std::int64_t end, Element element) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) element(i);
}

/// Calls element(i) for i in [0, n), on all threads if n is large.
template <class Element>
void for_each(std::int64_t n, Element element) {
    if (n < parallel_elements) return one_thread(0, n, element);
#pragma omp parallel for schedule(static) num_threads(threads())
    for (std::int64_t s = 0; s < segments; ++s) one_thread(n * s / segments, n * (s + 1) / segments, element);
}

void add(float* into, const float* x, std::int64_t n) {
    for_each(n, [=](std::int64_t i) { into[i] += x[i]; });
}

void add_scaled(float* into, const float* x, std::int64_t n, float scale) {
    for_each(n, [=](std::int64_t i) { into[i] += scale * x[i]; });
}

void approach(float* into, const float* x, std::int64_t n, float weight) {
    for_each(n, [=](std::int64_t i) { into[i] += weight * (x[i] - into[i]); });
}

void scale(float* x, std::int64_t n, float factor) {
    for_each(n, [=](std::int64_t i) { x[i] *= factor; });
}

/// Calls part(s, begin, length) for each segment that holds something: a 64th of a long vector, in whole
/// blocks of lanes; a short vector fills fewer.
template <class Part>
void for_each_segment(std::int64_t n, Part part) {
    const std::int64_t least = 1024, even = ((n + segments - 1) / segments + lanes - 1) / lanes * lanes;
    const std::int64_t length = even < least ? least : even, used = (n + length - 1) / length;
    const auto call = [=](std::int64_t s) {
        const std::int64_t begin = s * length, rest = n - begin;
        part(s, begin, rest < length ? rest : length);
    };
    if (n < parallel_elements) {
        for (std::int64_t s = 0; s < used; ++s) call(s);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads())
    for (std::int64_t s = 0; s < used; ++s) call(s);
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
    double sums[segments] = {};
    double* const sum = sums;
    for_each_segment(n, [=](std::int64_t s, std::int64_t begin, std::int64_t length) {
        sum[s] = segment_sum_of_squares(x + begin, length);
    });
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
    std::int64_t firsts[segments];
    for (int s = 0; s < segments; ++s) firsts[s] = -1;
    std::int64_t* const first = firsts;
    for_each_segment(n, [=](std::int64_t s, std::int64_t begin, std::int64_t length) {
        const std::int64_t at = segment_first_not_finite(x + begin, length);
        if (at >= 0) first[s] = begin + at;
    });
    for (int s = 0; s < segments; ++s)
        if (firsts[s] >= 0) return firsts[s];
    return -1;
}

}  // namespace

template <>
const VectorTable& table<PYDDL_LEVEL, VectorTable>() {
    static constexpr VectorTable t{add, add_scaled, approach, scale, sum_of_squares, first_not_finite};
    return t;
}

}  // namespace pyddl::kernels
