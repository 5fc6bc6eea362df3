#include "kernels/winograd.hpp"

#include <algorithm>

#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using Kind = Convolution::Kind;

std::int64_t tiles_of(const Picture& p) { return (p.height + 3) / 4 * ((p.width + 3) / 4); }

bool is_strided(const ConvolutionShape& s) { return s.stride == 2; }
std::int64_t points_of(const ConvolutionShape& s) { return is_strided(s) ? 25 : 36; }
/// Columns of the larger picture's matrices.
std::int64_t wide(const ConvolutionShape& s) { return (is_strided(s) ? 4 : 1) * s.large.channels; }

/// Tiles of a product: what they need, before and after, stays in a cache of a core, but there are enough of them to
/// make up for reading the weights once more, or for reading and writing them. Tiles of one row are in one product
/// where they overlap.
std::int64_t chunk_of(const ConvolutionShape& s, Kind kind, std::int64_t rows) {
    constexpr std::int64_t bytes = 3 << 19;
    const std::int64_t from = wide(s), to = s.small.channels, each = tiles_of(s.small), tiles = rows * each;
    const std::int64_t least = from * to / (from + to) * (kind == Kind::gradient ? 2 : 1);
    const std::int64_t fit = std::max(bytes / (points_of(s) * 4 * (from + to)), least) * threads();
    const std::int64_t chunks = (tiles + fit - 1) / fit, chunk = (tiles + chunks - 1) / chunks;
    return is_strided(s) && kind == Kind::up ? (chunk + each - 1) / each * each : chunk;
}

ProductShape product_of(const ConvolutionShape& s, Kind kind, std::int64_t chunk) {
    const std::int64_t large = wide(s), small = s.small.channels, times = points_of(s);
    if (kind == Kind::gradient)
        return {.m = large, .k = chunk, .n = small, .a_transposed = true, .add = true, .times = times};
    if (kind == Kind::up) return {.m = chunk, .k = small, .n = large, .b_transposed = true, .times = times};
    return {.m = chunk, .k = large, .n = small, .times = times};
}

}  // namespace

bool winograd_fits(const ConvolutionShape& s) {
    const bool dense = s.kernel == 3 && s.stride == 1;
    const bool strided =
        s.kernel == 4 && s.stride == 2 && s.large.height == 2 * s.small.height && s.large.width == 2 * s.small.width;
    return (dense || strided) && s.padding == 1 && s.large.channels % 16 == 0 && s.small.channels % 16 == 0;
}

bool winograd_pays(const ConvolutionShape& s, std::int64_t rows) {
    // In units of a multiplication in a product: measured on Zen 4, one thread.
    const double C = static_cast<double>(wide(s)), K = static_cast<double>(s.small.channels);
    const double tiles = static_cast<double>(rows * tiles_of(s.small));
    const auto taps = [&](std::int64_t size) { return s.kernel * size - 2; };  // without padding
    const double inner = static_cast<double>(taps(s.small.height) * taps(s.small.width));
    const double direct = static_cast<double>(rows) * inner * static_cast<double>(s.large.channels) * K;
    constexpr double of_tiles = 45, of_weights = 45;  // for each of their elements, with moving them
    return static_cast<double>(points_of(s)) * (tiles * C * K + of_tiles * tiles * (C + K) / 2 + of_weights * C * K) <
           direct;
}

Winograd::Winograd(const ConvolutionShape& s, Kind kind, std::int64_t rows)
    : large_(s.large),
      small_(s.small),
      kind_(kind),
      strided_(is_strided(s)),
      points_(points_of(s)),
      from_(kind == Kind::up ? s.small.channels : wide(s)),
      to_(kind == Kind::up ? wide(s) : s.small.channels),
      tiles_(rows * tiles_of(s.small)),
      chunk_(chunk_of(s, kind, rows)),
      product_(product_of(s, kind, chunk_)) {}

const WinogradPasses& Winograd::passes() const {
    const auto& table = best<WinogradTable>();
    return strided_ ? table.strided : table.dense;
}

std::int64_t Winograd::room() const { return points_ * chunk_ * (from_ + to_); }

void Winograd::transform(const float* weights, float* to) const {
    passes().weights(weights, to, large_.channels, small_.channels, kind_ == Kind::up && !strided_);
}

void Winograd::operator()(const float* from, const float* weights, const float* bias, bool relu, float* to, float* room,
                          void* scratch) const {
    const WinogradPasses& each = passes();
    const bool up = kind_ == Kind::up, adjoint = up && strided_;
    const Picture &in = up ? small_ : large_, &out = up ? large_ : small_;
    float* const products = room + points_ * chunk_ * from_;
    for (std::int64_t begin = 0; begin < tiles_; begin += chunk_) {
        const std::int64_t end = std::min(begin + chunk_, tiles_);
        (adjoint ? each.deltas : each.inputs)(from, room, in, begin, end, chunk_);  // a short last chunk: the rest is
        product_(room, weights, nullptr, products, scratch);                        // not used
        if (adjoint)
            each.scatter(products, to, out, begin, end, chunk_);
        else
            each.outputs(products, to, out, bias, relu, begin, end, chunk_);
    }
}

void Winograd::gradient(const float* large, const float* small, float* gradients, bool add, float* transformed,
                        float* room, void* scratch) const {
    const WinogradPasses& each = passes();
    float* const others = room + points_ * chunk_ * from_;
    std::fill_n(transformed, weights(), 0.0f);
    for (std::int64_t begin = 0; begin < tiles_; begin += chunk_) {
        const std::int64_t end = std::min(begin + chunk_, tiles_);
        if (end - begin < chunk_) std::fill_n(room, this->room(), 0.0f);
        each.inputs(large, room, large_, begin, end, chunk_);
        each.deltas(small, others, small_, begin, end, chunk_);
        product_(room, others, nullptr, transformed, scratch);
    }
    each.gradients(transformed, gradients, large_.channels, small_.channels, add);
}

}  // namespace pyddl::kernels
