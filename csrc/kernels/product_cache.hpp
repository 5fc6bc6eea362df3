/// Matrix products by their shapes: primitives are made when first asked for, and kept.
#pragma once
#include <cstddef>
#include <list>

#include "kernels/product.hpp"

namespace pyddl::kernels {

/// The latest shapes stay, for the number of threads that they were made for. Not for use by two threads at once.
class ProductCache {
  public:
    static constexpr std::size_t most = 128;

    /// Runs the product of this shape; see Product.
    void run(const ProductShape& shape, const void* a, const void* b, const float* bias, float* c);

  private:
    struct Kept {
        ProductShape shape;
        int threads;
        Product product;
    };
    std::list<Kept> kept_;
    Scratch scratch_;
};

}  // namespace pyddl::kernels
