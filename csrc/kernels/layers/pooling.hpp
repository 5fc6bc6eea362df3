/// Pooling over windows side by side, and interpolation to a larger picture. Letters as in layers/picture_loops.hpp.
#pragma once
#include <array>

#include "kernels/layers/picture_loops.hpp"
#include "kernels/layers/whole.hpp"

namespace pyddl::kernels {

struct PoolLayer {
    Picture picture;
    std::int64_t size = 2;  ///< up to 15; places that fill no window are left out
    bool largest = true;    ///< or the mean
};

class Pool final : public WholeLayer {
  public:
    /// @throws std::invalid_argument when a window is larger than the picture, or than 15
    explicit Pool(PoolLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;

  private:
    static Sizes sizes_of(const PoolLayer&);
    Window window(std::int64_t rows) const;

    PoolLayer layer_;
};

struct ResizeLayer {
    Picture picture;
    std::int64_t factor = 2;
    bool bilinear = false;  ///< or the nearest
};

/// Output i of an axis lies at (i + 1/2) / factor - 1/2, kept within the picture.
class Resize final : public WholeLayer {
  public:
    explicit Resize(ResizeLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;

  private:
    static Sizes sizes_of(const ResizeLayer&);
    std::vector<Tap> taps(std::int64_t size) const;
    Window window(std::int64_t rows) const;

    const Tap* of_rows() const { return layer_.bilinear ? rows_.data() : nullptr; }

    ResizeLayer layer_;
    std::vector<Tap> rows_, columns_;
};

}  // namespace pyddl::kernels
