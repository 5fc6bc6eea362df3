/// The loops of the sums inside a node, one copy per instruction set (kernels/simd.hpp): these sums run from
/// the caches, where wider loads count. All copies give the same bits. No two of the arrays overlap, unless
/// they are the same one.
#pragma once
#include <cstdint>

namespace pyddl::comm::node {

struct AddTable {
    /// out = a + b
    void (*two)(float* out, const float* a, const float* b, std::int64_t n);
    /// out = (a + b) + c
    void (*three)(float* out, const float* a, const float* b, const float* c, std::int64_t n);
    /// out = (a + b) + (c + d)
    void (*four)(float* out, const float* a, const float* b, const float* c, const float* d, std::int64_t n);
    /// a = b = a + b
    void (*two_in_both)(float* a, float* b, std::int64_t n);
    /// a = b = c = (a + b) + c
    void (*three_in_all)(float* a, float* b, float* c, std::int64_t n);
    /// a = b = c = d = (a + b) + (c + d)
    void (*four_in_all)(float* a, float* b, float* c, float* d, std::int64_t n);
};

}  // namespace pyddl::comm::node
