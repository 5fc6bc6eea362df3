/// Matrix products on oneDNN: a primitive and its memory objects made once, executed many times with other
/// pointers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kernels/activations.hpp"
#include "kernels/element.hpp"

namespace pyddl::kernels {

/// Whether this processor multiplies bfloat16 matrices in hardware (AVX512_BF16 or AMX), as far as oneDNN may
/// use it.
bool has_bfloat16();

/// Whether it multiplies tiles of them (AMX), as far as oneDNN may.
bool has_tiles();

/// Version of the oneDNN library in use, for example "3.2.0".
std::string onednn_version();

/// c (M, N) := activation(op(a) op(b) + bias), or c += op(a) op(b), all row-major and contiguous, sums in float; the
/// activation only where fuses_with_product.
struct ProductShape {
    std::int64_t m, k, n;
    bool a_transposed = false;  ///< a is stored as (K, M)
    bool b_transposed = false;  ///< b is stored as (N, K)
    bool bias = false;          ///< of length N, float
    Activation activation = Activation::linear;
    Element in = Element::float32;   ///< of a and b
    Element out = Element::float32;  ///< of c
    bool add = false;                ///< to what c holds
    std::int64_t times = 1;          ///< so many products of matrices one after another

    double flops() const {
        return 2.0 * static_cast<double>(times) * static_cast<double>(m) * static_cast<double>(k) *
               static_cast<double>(n);
    }
    bool operator==(const ProductShape&) const = default;
};

/// One product of one shape. Threads: oneDNN's own; a small product stays on one. Not for use by two threads
/// at once.
class Product {
  public:
    /// @throws std::invalid_argument when a size is below 1
    explicit Product(const ProductShape& shape);
    ~Product();
    Product(Product&&) noexcept;
    Product& operator=(Product&&) noexcept;

    /// Bytes that `scratch` must have.
    std::size_t scratch_bytes() const;

    /// The pointers need not be aligned; c may not overlap the others. Allocates nothing.
    void operator()(const void* a, const void* b, const float* bias, void* c, void* scratch) const;

  private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

/// GFLOP/s of the best of a few large products on the current threads, trying for about `seconds` in all.
double product_peak(Element element, double seconds);

/// Memory that starts on a cache line and only grows; what it holds is undefined after a growth.
class Scratch {
  public:
    void* reserve(std::size_t bytes);
    void* data() const { return data_.get(); }
    std::size_t size() const { return size_; }

  private:
    struct Free {
        void operator()(void* p) const;
    };
    std::unique_ptr<void, Free> data_;
    std::size_t size_ = 0;
};

}  // namespace pyddl::kernels
