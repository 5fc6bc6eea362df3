#include "comm/node/node_sum.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "comm/node/add.hpp"
#include "kernels/simd.hpp"

namespace pyddl::comm::node {
namespace {

constexpr std::int64_t block_size = 1024;  // floats: the blocks of all levels of the tree fit the first-level cache

const AddTable& add() { return kernels::best<AddTable>(); }

}  // namespace

// The tree is log2 P deep; every level but the innermost holds one block, and in_all one more.
TreeSum::TreeSum(int ranks)
    : ranks_(ranks),
      scratch_(static_cast<std::size_t>(block_size * (std::bit_width(static_cast<unsigned>(ranks)) + 1))) {}

void TreeSum::in_all(float* const* v, std::int64_t begin, std::int64_t end) {
    switch (ranks_) {
        case 1:
            return;
        case 2:
            return add().two_in_both(v[0] + begin, v[1] + begin, end - begin);
        case 3:
            return add().three_in_all(v[0] + begin, v[1] + begin, v[2] + begin, end - begin);
        case 4:
            return add().four_in_all(v[0] + begin, v[1] + begin, v[2] + begin, v[3] + begin, end - begin);
        default:
            break;
    }
    float* total = scratch_.data();
    for (std::int64_t at = begin; at < end; at += block_size) {
        const std::int64_t n = std::min(block_size, end - at);
        block(v, ranks_, at, n, total, total + block_size);
        for (int r = 0; r < ranks_; ++r) std::memcpy(v[r] + at, total, static_cast<std::size_t>(n) * sizeof(float));
    }
}

void TreeSum::in_one(float* const* v, std::int64_t begin, std::int64_t end, float* out) {
    for (std::int64_t at = begin; at < end; at += block_size) {
        const std::int64_t n = std::min(block_size, end - at);
        // Larger trees read `out`'s vector after the first writes to `out`, were these not to go to a block
        // of ours.
        float* total = ranks_ > 4 ? scratch_.data() : out + (at - begin);
        block(v, ranks_, at, n, total, scratch_.data() + block_size);
        if (ranks_ > 4) std::memcpy(out + (at - begin), total, static_cast<std::size_t>(n) * sizeof(float));
    }
}

void TreeSum::block(float* const* v, int count, std::int64_t at, std::int64_t n, float* out, float* spare) {
    switch (count) {
        case 1:
            if (out != v[0] + at) std::memcpy(out, v[0] + at, static_cast<std::size_t>(n) * sizeof(float));
            return;
        case 2:
            return add().two(out, v[0] + at, v[1] + at, n);
        case 3:
            return add().three(out, v[0] + at, v[1] + at, v[2] + at, n);
        case 4:
            return add().four(out, v[0] + at, v[1] + at, v[2] + at, v[3] + at, n);
        default:
            break;
    }
    const int half = static_cast<int>(std::bit_ceil(static_cast<unsigned>(count)) / 2);
    block(v, half, at, n, out, spare);
    block(v + half, count - half, at, n, spare, spare + block_size);
    add().two(out, out, spare, n);
}

}  // namespace pyddl::comm::node
