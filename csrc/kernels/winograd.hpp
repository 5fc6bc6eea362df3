/// Winograd's convolution F(4 x 4, 3 x 3): outputs of four by four places from 36 products in the place of 144.
/// Source: Lavin, Gray (2016), Fast algorithms for convolutional neural networks, CVPR. For kernels of three, stride
/// and padding one, and channels in multiples of 16; letters as in kernels/convolution.hpp.
///
/// With tiles of six by six places d of the larger picture, kernels g and tiles of four by four results y:
///   y = A^T [(G g G^T) * (B^T d B)] A, and, with deltas z of y, of g: G^T [(A z A^T) * (B^T d B)] G,
/// where * multiplies place by place, and sums over channels (or tiles) make 36 matrix products of it.
///
/// Error against a direct convolution in float32: 1e-6 to 4e-6 of the results' size (root mean square), where that one
/// has some 3e-7.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/convolution.hpp"
#include "kernels/product.hpp"

namespace pyddl::kernels {

/// Whether it is possible.
bool winograd_fits(const ConvolutionShape& shape);

/// Whether it is faster for so many rows on so many threads, by costs that were measured: the same on every rank, and
/// when a run goes on. Products do a quarter of the work on tiles that may hang over, and weights, 4 times as many, are
/// made anew in every call.
bool winograd_pays(const ConvolutionShape& shape, std::int64_t rows);

/// One direction for one number of rows: primitives, and no memory of its own.
class Winograd {
  public:
    Winograd(const ConvolutionShape& shape, Convolution::Kind kind, std::int64_t rows);

    /// Floats of transformed weights, and of the room that a run needs.
    std::int64_t weights() const { return 36 * from_ * to_; }
    std::int64_t room() const;
    std::size_t scratch_bytes() const { return product_.scratch_bytes(); }

    /// Of the kind's weights, from the flat vector's.
    void transform(const float* weights, float* to) const;

    /// to := from * weights, then a bias and relu. Kind down, or up.
    void operator()(const float* from, const float* weights, const float* bias, bool relu, float* to, float* room,
                    void* scratch) const;

    /// gradients := large^T small, or added to. Kind gradient.
    void gradient(const float* large, const float* small, float* gradients, bool add, float* transformed, float* room,
                  void* scratch) const;

  private:
    Picture picture_;             ///< of both, but for the channels
    std::int64_t from_, to_;      ///< channels of what is read and written; of gradients: of the larger and the smaller
    bool turned_;                 ///< kernels are turned round
    std::int64_t tiles_, chunk_;  ///< in all, and in a product
    Product product_;
};

/// The vectorised passes; see simd.hpp. Tiles are numbered through all rows; t from `begin` to `end` of them lie at
/// place t - begin of `stride` in each of 36 matrices.
struct WinogradTable {
    /// to (36, stride, C) := B^T d B of tiles d of x (B, H, W, C)
    void (*inputs)(const float* x, float* to, const Picture& x_shape, std::int64_t begin, std::int64_t end,
                   std::int64_t stride);
    /// y (B, H, W, C) := A^T m A of m (36, stride, C), plus a bias, then relu
    void (*outputs)(const float* m, float* y, const Picture& y_shape, const float* bias, bool relu, std::int64_t begin,
                    std::int64_t end, std::int64_t stride);
    /// to (36, stride, C) := A z A^T of tiles z of deltas (B, H, W, C)
    void (*deltas)(const float* z, float* to, const Picture& z_shape, std::int64_t begin, std::int64_t end,
                   std::int64_t stride);
    /// to (36, C, K) := G g G^T of weights (3, 3, C, K); turned: of the kernels turned round
    void (*weights)(const float* g, float* to, std::int64_t C, std::int64_t K, bool turned);
    /// g (3, 3, C, K) := or += G^T u G of u (36, C, K)
    void (*gradients)(const float* u, float* g, std::int64_t C, std::int64_t K, bool add);
};

}  // namespace pyddl::kernels
