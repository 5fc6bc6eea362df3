/// Sparsity: values pass as they are, and the loss of each row has cost sum_i KL(target || mean_i) besides, the means
/// being over the rows of the step of all workers: Ng (2011), Sparse autoencoder, CS294A lecture notes.
/// With m_i = sum_b x_bi / B, the sum over rows is B cost sum_i KL, and its derivative with respect to x_bi
/// cost ((1 - t) / (1 - m_i) - t / m_i): the same for each row, wherever it is.
#pragma once
#include "kernels/layers/whole.hpp"

namespace pyddl::kernels {

struct SparsityLayer {
    std::int64_t size;  ///< values of a row, in (0, 1)
    float target, cost;
};

/// It adds to loss and gradient in training only.
class Sparsity final : public WholeLayer {
  public:
    /// @throws std::invalid_argument when the target is not within (0, 1), or the cost not above 0
    explicit Sparsity(SparsityLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;
    bool piecewise_linear() const override { return false; }
    OwnLoss own_loss(const Pass&, const Memory&, View in) override;
    bool has_own_loss() const override { return true; }

  private:
    SparsityLayer layer_;
    Scratch sums_;
};

}  // namespace pyddl::kernels
