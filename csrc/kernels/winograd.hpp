/// Winograd's convolution, of tiles of four by four places of the smaller picture.
/// Source: Lavin, Gray (2016), Fast algorithms for convolutional neural networks, CVPR. Letters as in
/// kernels/convolution.hpp; channels in multiples of 16, padding one.
///
/// Kernels of three with stride one, F(4 x 4, 3 x 3): 36 products in the place of 144. With tiles of six by six places
/// d of the larger picture, kernels g and tiles of four by four results y:
///   y = A^T [(G g G^T) * (B^T d B)] A, and, with deltas z of y, of g: G^T [(A z A^T) * (B^T d B)] G,
/// where * multiplies place by place, and sums over channels (or tiles) make 36 matrix products of it.
///
/// Kernels of four with stride two, F(4 x 4, 2 x 2): the places of the larger picture with even and with odd rows and
/// columns are four phases, pictures as large as the smaller one, of each of which two by two taps are used. Their sum
/// is one product over four times the channels: 25 products in the place of 64. The way up is the adjoint,
/// d = B [(G g G^T)^T * (A y A^T)] B^T, tiles of which overlap.
///
/// Error against a direct convolution in float32: 1e-6 to 4e-6 of the results' size (root mean square), where that one
/// has some 3e-7.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/convolution.hpp"
#include "kernels/product.hpp"

namespace pyddl::kernels {

struct WinogradPasses;

/// Whether it is possible.
bool winograd_fits(const ConvolutionShape& shape);

/// Whether it is faster for so many rows on so many threads, by costs that were measured: the same on every rank, and
/// when a run goes on. Products do a quarter of the work (stride two: 0.39 of it) on tiles that may hang over, and
/// weights, 4 (6.25) times as many, are made anew in every call.
bool winograd_pays(const ConvolutionShape& shape, std::int64_t rows);

/// One direction for one number of rows: primitives, and no memory of its own.
class Winograd {
  public:
    Winograd(const ConvolutionShape& shape, Convolution::Kind kind, std::int64_t rows);

    /// Floats of transformed weights, and of the room that a run needs.
    std::int64_t weights() const { return points_ * from_ * to_; }
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
    const WinogradPasses& passes() const;

    Picture large_, small_;
    Convolution::Kind kind_;
    bool strided_;
    std::int64_t points_;         ///< matrices
    std::int64_t from_, to_;      ///< columns of what is read and written; of gradients: of the larger and the smaller
    std::int64_t tiles_, chunk_;  ///< in all, and in a product
    Product product_;
};

/// The vectorised passes; see simd.hpp. Tiles are numbered through all rows; t from `begin` to `end` of them lie at
/// place t - begin of `stride` in each of N matrices. F phases' C channels lie side by side. N, F are 36, 1 or 25, 4.
struct WinogradPasses {
    /// to (N, stride, F C) := B^T d B of tiles d of x (B, H, W, C)
    void (*inputs)(const float* x, float* to, const Picture& x_shape, std::int64_t begin, std::int64_t end,
                   std::int64_t stride);
    /// y (B, h, w, K) := A^T m A of m (N, stride, K), plus a bias, then relu
    void (*outputs)(const float* m, float* y, const Picture& y_shape, const float* bias, bool relu, std::int64_t begin,
                    std::int64_t end, std::int64_t stride);
    /// to (N, stride, K) := A z A^T of tiles z of deltas (B, h, w, K)
    void (*deltas)(const float* z, float* to, const Picture& z_shape, std::int64_t begin, std::int64_t end,
                   std::int64_t stride);
    /// x (B, H, W, C) := sums of the tiles B m B^T of m (N, stride, F C), of all tiles of some rows. Stride two.
    void (*scatter)(const float* m, float* x, const Picture& x_shape, std::int64_t begin, std::int64_t end,
                    std::int64_t stride);
    /// to (N, F C, K) := G g G^T of weights (k, k, C, K); turned: of the kernels turned round
    void (*weights)(const float* g, float* to, std::int64_t C, std::int64_t K, bool turned);
    /// g (k, k, C, K) := or += G^T u G of u (N, F C, K)
    void (*gradients)(const float* u, float* g, std::int64_t C, std::int64_t K, bool add);
};

struct WinogradTable {
    WinogradPasses dense, strided;
};

}  // namespace pyddl::kernels
