/// Sums over vectors of several ranks that all lie in this process's address space.
/// Letters: P vectors. Elements are added along one fixed binary tree over the ranks, ((0+1)+(2+3))+(4+5)
/// ..., each inner node splitting at the largest power of two, so the bits do not depend on who adds which
/// part.
#pragma once
#include <cstdint>
#include <vector>

namespace pyddl::comm::node {

class TreeSum {
  public:
    explicit TreeSum(int ranks);

    /// vectors[r][i] for all r = sum of vectors[.][i], for i in [begin, end): each element is read once and
    /// written once per rank, and it is written while it lies in the first-level cache.
    void in_all(float* const* vectors, std::int64_t begin, std::int64_t end);

    /// out[i - begin] = sum of vectors[.][i], for i in [begin, end). `out` may be one of the vectors, at
    /// begin.
    void in_one(float* const* vectors, std::int64_t begin, std::int64_t end, float* out);

  private:
    void block(float* const* vectors, int count, std::int64_t at, std::int64_t n, float* out, float* spare);

    int ranks_;
    std::vector<float> scratch_;
};

}  // namespace pyddl::comm::node
