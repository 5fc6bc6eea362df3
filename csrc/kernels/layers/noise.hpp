/// Layers that draw numbers: keyed by (seed, purpose, layer, step, turn, slot, the row's index), never by ranks or by
/// what was drawn before. When they do not train they pass on what they get.
#pragma once
#include "kernels/layers/whole.hpp"
#include "kernels/random.hpp"

namespace pyddl::kernels {

/// What keys a layer's numbers besides the pass. Substeps are turn, slot (4 bits each) and number (8 bits).
struct NoiseKey {
    std::uint64_t purpose = 0;
    std::int64_t number = 0;  ///< of the layer among all of the model: below 256

    /// @throws std::invalid_argument when a number is too large, or the pass has no indices
    RandomKey of(const Pass&, std::int64_t rows) const;
};

struct NoiseLayer {
    enum class Kind {
        dropout,  ///< values become 0 with probability `amount`, others are divided by 1 - amount
        masking,  ///< values become 0 with probability `amount`
        gaussian  ///< normal numbers of standard deviation `amount` are added
    } kind;
    std::int64_t size;  ///< values of a row
    float amount;
    NoiseKey key;
};

class Noise final : public WholeLayer {
  public:
    /// @throws std::invalid_argument when the amount is below 0, or a probability not below 1
    explicit Noise(NoiseLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;

  private:
    void multiply(const Pass&, const Memory&, View from, View to) const;

    NoiseLayer layer_;
};

/// Codes that are normal distributions: of each row n means, then n log variances. S samples of a row lie next to each
/// other, so that (B, S n) and (B S, n) are one: they may enter a network as B S rows.
struct GaussianCodes {
    const float* values;  ///< (B, 2 n)
    std::int64_t rows, size, samples = 1;
};

/// out (B S, n) := mean + exp(log variance / 2) noise; the mean, where there is no noise. May be in place of the noise.
void sample_codes(const GaussianCodes&, const float* noise, float* out);

/// out (B, 2 n) := the gradient, with respect to the codes, of what has `deltas` (B S, n) with respect to the samples,
/// and of `weight` times the divergence. No noise: the samples were the means.
void codes_backward(const GaussianCodes&, const float* noise, const float* deltas, float weight, float* out);

/// The sum over rows of the divergence from a standard normal distribution, sum (mean^2 + variance - 1 - log variance)
/// / 2, in nats.
double codes_divergence(const GaussianCodes&);

/// out (B S) := log N(z; 0, 1) - log N(z; mean, variance) of each sample z.
void codes_log_ratios(const GaussianCodes&, const float* noise, double* out);

struct GaussianLayer {
    std::int64_t size;    ///< of a sample
    float weight = 0.0f;  ///< of the Kullback-Leibler divergence from a standard normal in the loss
    NoiseKey key;
};

/// sample (n) := mean + exp(log variance / 2) e, from (mean, log variance) (2 n) and normal numbers e: Kingma, Welling
/// (2013), arXiv:1312.6114. The mean, when neither training nor sampling.
/// The divergence of a row is sum (mean^2 + variance - 1 - log variance) / 2.
class Gaussian final : public WholeLayer {
  public:
    explicit Gaussian(GaussianLayer layer);

    void forward(const Pass&, const Memory&, View in, View out) override;
    void backward(const Pass&, const Memory&, View in, View delta, View below) override;
    void tangent(const Pass&, const Memory&, View out, View delta, View direction, View moved) override;
    bool piecewise_linear() const override { return false; }
    OwnLoss own_loss(const Pass&, const Memory&, View in) override;
    bool has_own_loss() const override { return true; }
    bool has_divergence() const override { return true; }

  private:
    GaussianLayer layer_;
    Scratch floats_;
};

}  // namespace pyddl::kernels
