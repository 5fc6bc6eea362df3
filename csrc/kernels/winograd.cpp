#include "kernels/winograd.hpp"

#include <algorithm>

#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using Kind = Convolution::Kind;

std::int64_t tiles_of(const Picture& p) { return (p.height + 3) / 4 * ((p.width + 3) / 4); }

/// Tiles of a product: what they need, before and after, stays in a cache of a core, but there are enough of them to
/// make up for reading the weights once more, or for reading and writing them.
std::int64_t chunk_of(Kind kind, std::int64_t tiles, std::int64_t from, std::int64_t to) {
    constexpr std::int64_t bytes = 3 << 19;
    const std::int64_t least = from * to / (from + to) * (kind == Kind::gradient ? 2 : 1);
    const std::int64_t fit = std::max(bytes / (36 * 4 * (from + to)), least) * threads();
    const std::int64_t chunks = (tiles + fit - 1) / fit;
    return (tiles + chunks - 1) / chunks;
}

ProductShape product_of(Kind kind, std::int64_t chunk, std::int64_t from, std::int64_t to) {
    if (kind == Kind::gradient) return {.m = from, .k = chunk, .n = to, .a_transposed = true, .add = true, .times = 36};
    return {.m = chunk, .k = from, .n = to, .b_transposed = kind == Kind::up, .times = 36};
}

}  // namespace

bool winograd_fits(const ConvolutionShape& s) {
    return s.kernel == 3 && s.stride == 1 && s.padding == 1 && s.large.channels % 16 == 0 && s.small.channels % 16 == 0;
}

bool winograd_pays(const ConvolutionShape& s, std::int64_t rows) {
    // In units of a multiplication in a product: measured on Zen 4, one thread.
    const double C = static_cast<double>(s.large.channels), K = static_cast<double>(s.small.channels);
    const double tiles = static_cast<double>(rows * tiles_of(s.large));
    const double inner = static_cast<double>((s.large.height * 3 - 2) * (s.large.width * 3 - 2));  // without padding
    const double direct = static_cast<double>(rows) * inner * C * K;
    constexpr double of_tiles = 45, of_weights = 45;  // for each of their 36 elements, with moving them
    return 36 * (tiles * C * K + of_tiles * tiles * (C + K) / 2 + of_weights * C * K) < direct;
}

Winograd::Winograd(const ConvolutionShape& s, Kind kind, std::int64_t rows)
    : picture_(s.large),
      from_(kind == Kind::up ? s.small.channels : s.large.channels),
      to_(kind == Kind::up ? s.large.channels : s.small.channels),
      turned_(kind == Kind::up),
      tiles_(rows * tiles_of(s.large)),
      chunk_(chunk_of(kind, tiles_, from_, to_)),
      product_(product_of(kind, chunk_, from_, to_)) {}

std::int64_t Winograd::room() const { return 36 * chunk_ * (from_ + to_); }

void Winograd::transform(const float* weights, float* to) const {
    best<WinogradTable>().weights(weights, to, turned_ ? to_ : from_, turned_ ? from_ : to_, turned_);
}

void Winograd::operator()(const float* from, const float* weights, const float* bias, bool relu, float* to, float* room,
                          void* scratch) const {
    const auto& table = best<WinogradTable>();
    const Picture in{picture_.height, picture_.width, from_}, out{picture_.height, picture_.width, to_};
    float* const products = room + 36 * chunk_ * from_;
    for (std::int64_t begin = 0; begin < tiles_; begin += chunk_) {
        const std::int64_t end = std::min(begin + chunk_, tiles_);
        table.inputs(from, room, in, begin, end, chunk_);  // of a short last chunk, the rest is not used
        product_(room, weights, nullptr, products, scratch);
        table.outputs(products, to, out, bias, relu, begin, end, chunk_);
    }
}

void Winograd::gradient(const float* large, const float* small, float* gradients, bool add, float* transformed,
                        float* room, void* scratch) const {
    const auto& table = best<WinogradTable>();
    const Picture in{picture_.height, picture_.width, from_}, out{picture_.height, picture_.width, to_};
    float* const others = room + 36 * chunk_ * from_;
    std::fill_n(transformed, weights(), 0.0f);
    for (std::int64_t begin = 0; begin < tiles_; begin += chunk_) {
        const std::int64_t end = std::min(begin + chunk_, tiles_);
        if (end - begin < chunk_) std::fill_n(room, this->room(), 0.0f);
        table.inputs(large, room, in, begin, end, chunk_);
        table.deltas(small, others, out, begin, end, chunk_);
        product_(room, others, nullptr, transformed, scratch);
    }
    table.gradients(transformed, gradients, from_, to_, add);
}

}  // namespace pyddl::kernels
