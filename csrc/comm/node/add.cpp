#include "comm/node/add.hpp"

#include "kernels/simd.hpp"

namespace {

// Iterations never depend on each other, also where `out` is `a`: hence `omp simd`.

void two(float* out, const float* a, const float* b, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void three(float* out, const float* a, const float* b, const float* c, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + c[i];
}

void four(float* out, const float* a, const float* b, const float* c, const float* d, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

void two_in_both(float* a, float* b, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) a[i] = b[i] = a[i] + b[i];
}

void three_in_all(float* a, float* b, float* c, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) a[i] = b[i] = c[i] = (a[i] + b[i]) + c[i];
}

void four_in_all(float* a, float* b, float* c, float* d, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) a[i] = b[i] = c[i] = d[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

}  // namespace

namespace pyddl::kernels {

template <>
const comm::node::AddTable& table<PYDDL_LEVEL, comm::node::AddTable>() {
    static constexpr comm::node::AddTable adds{two, three, four, two_in_both, three_in_all, four_in_all};
    return adds;
}

}  // namespace pyddl::kernels
