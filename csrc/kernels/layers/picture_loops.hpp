/// Loops over pictures: transposition, windows, pooling, interpolation. Letters: B rows of the batch, H, W, C height,
/// width and channels of the larger picture, h, w those of the smaller one, k a window's size, s its stride, p the
/// padding before it. Pictures are (B, height, width, channels). All sums are taken in float, in an order that does not
/// depend on the threads, which share out the rows of the batch.
#pragma once
#include <cstdint>

#include "kernels/element.hpp"

namespace pyddl::kernels {

/// Position (i, j) of the smaller picture sees places (i s + a - p, j s + b - p) of the larger, a and b below k.
struct Window {
    std::int64_t B, H, W, C, h, w, k, s, p;
};

/// Where an output of an interpolation comes from: (1 - weight) of `low` and `weight` of `high`.
struct Tap {
    std::int64_t low, high;
    float weight;
};

/// Out is In, or float. The vectorised passes; see simd.hpp.
template <class In, class Out>
struct PictureTable {
    /// values (rows, channels) += bias
    void (*add_bias)(Out* values, std::int64_t rows, std::int64_t channels, const float* bias);

    /// to (B, columns, rows) := from (B, rows, columns)
    void (*transpose)(const In* from, Out* to, std::int64_t B, std::int64_t rows, std::int64_t columns);

    /// to (B, H, W, C) := sums of products (B, h, w, k, k, C) at the places that windows see: the adjoint of a
    /// convolution.
    void (*scatter)(const float* products, Out* to, const Window&);

    /// to (B, h, w, C) := sums of products (B, H, W, k, k, C) of the places that each window sees; s = 1.
    void (*gather)(const float* products, Out* to, const Window&);

    /// to (B, H, W, k, k, C) := from (B, h, w, C) where a window's place (a, b) is there, else 0; s = 1.
    void (*spread)(const In* from, In* to, const Window&);

    /// Windows side by side: s = k, p = 0; C is the channels of both. `place`: which of a window's values is largest,
    /// the first of equal ones, or of NaN.
    void (*largest)(const In* from, Out* to, std::uint8_t* place, const Window&);
    void (*largest_backward)(const In* delta, const std::uint8_t* place, Out* below, const Window&);
    void (*largest_tangent)(const In* direction, const std::uint8_t* place, Out* to, const Window&);
    void (*mean)(const In* from, Out* to, const Window&);
    void (*mean_backward)(const In* delta, Out* below, const Window&);

    /// to (B, H, W, C) := interpolation of from (B, h, w, C), by rows (H) and columns (W). Without these,
    /// each place of the smaller picture stands for s by s of the larger.
    /// @param scratch interpolation_scratch floats
    void (*interpolate)(const In* from, Out* to, const Window&, const Tap* rows, const Tap* columns, float* scratch);
    void (*interpolate_backward)(const In* delta, Out* below, const Window&, const Tap* rows, const Tap* columns,
                                 float* scratch);
};

constexpr std::int64_t interpolation_scratch(const Window& x, int threads) {
    return threads * (x.h * x.W + x.h * x.w) * x.C;
}

}  // namespace pyddl::kernels
