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

    explicit Stripes(std::int64_t columns)
        : columns(columns), count((columns + columns_each - 1) / columns_each) {}
    std::int64_t first(std::int64_t s) const { return s * columns_each; }
    std::int64_t width(std::int64_t s) const {
        const std::int64_t left = columns - first(s);
        return left < columns_each ? left : columns_each;
    }
};

}  // namespace
}  // namespace pyddl::kernels
