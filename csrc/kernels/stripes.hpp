/// How passes over a (B, N) matrix that also sum its columns are cut: stripes of columns, each walked in
/// blocks of rows. Threads share out stripes, so a column is always summed in one order. A block bounds the
/// length of a float sum, and a stripe's sums stay in registers or the first cache. For levelled sources only
/// (simd.hpp).
#pragma once
#include <cstdint>

namespace pyddl::kernels {
namespace {

struct Stripes {
    static constexpr std::int64_t columns_each = 64;
    static constexpr std::int64_t rows_each = 32;

    std::int64_t columns;
    std::int64_t count;

    explicit Stripes(std::int64_t columns) : columns(columns), count((columns + columns_each - 1) / columns_each) {}
    std::int64_t first(std::int64_t s) const { return s * columns_each; }
    std::int64_t width(std::int64_t s) const {
        const std::int64_t left = columns - first(s);
        return left < columns_each ? left : columns_each;
    }
};

/// f(n) for each column n of a stripe, vectorised. Whole stripes get a loop of fixed length, which unrolls.
template <class F>
[[gnu::always_inline]] inline void for_columns(std::int64_t width, F f) {
    if (width == Stripes::columns_each) {
#pragma omp simd
        for (std::int64_t n = 0; n < Stripes::columns_each; ++n) f(n);
    } else {
#pragma omp simd
        for (std::int64_t n = 0; n < width; ++n) f(n);
    }
}

}  // namespace
}  // namespace pyddl::kernels
