/// Losses, each fused with its gradient, the slope of the last activation and the bias gradient: one pass
/// over memory.
///
/// Sums over features and rows, never means; with outputs y (or logits z), targets t and labels c:
///   squared_error  sum (y - t)^2                              d/dy = 2 (y - t)
///   cross_entropy  sum max(z, 0) - t z + log(1 + exp(-|z|))   d/dz = sigmoid(z) - t      (nats; t in [0, 1])
///   softmax        sum log(sum_n exp(z_n)) - z_c              d/dz_n = exp(z_n) / sum exp(z) - (n == c)   (nats)
/// All hold for any finite input; NaN and infinity propagate.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "kernels/activations.hpp"

namespace pyddl::kernels {

enum class Loss { squared_error, cross_entropy, softmax };

inline constexpr std::array<std::string_view, 3> loss_names = {"mse", "bce", "softmax"};

/// @throws std::invalid_argument when no loss has this name
Loss loss_named(std::string_view name);

/// Sums over all elements.
struct LossSums {
    double loss = 0;
    double squared_error = 0;  ///< between targets and reconstruction: the outputs, or sigmoid(logits); not of softmax
    double accuracy = 0;       ///< of softmax: rows whose largest logit, or the first of several, is the label's
    double kl = 0;             ///< divergences of layers that sample; in the loss already, by their weights
};

/// The vectorised passes, with deltas stored as T; see simd.hpp. B rows, N columns, row-major and contiguous.
/// Sums are taken per column (of softmax: per row) in float over blocks of 32 rows, then in double, in an order that
/// depends on B and N only.
template <class T>
struct LossTable {
    /// Loss, other than softmax, and its gradient with respect to the last layer's pre-activations.
    /// @param outputs (B, N), of the last activation; for cross_entropy the logits
    /// @param deltas out, (B, N); may be `outputs` itself where T is float
    /// @param bias_gradients out, (N), or null
    double (*gradient)(Loss loss, Activation activation, const float* outputs, const float* targets, T* deltas,
                       std::int64_t rows, std::int64_t columns, float* bias_gradients);

    LossSums (*evaluate)(Loss loss, const float* outputs, const float* targets, std::int64_t rows,
                         std::int64_t columns);

    /// Losses of single rows, float32 outputs: out (B S), where the S rows of outputs (B S, N) from b S on have targets
    /// row b of (B, N). A row's does not depend on the others.
    void (*of_rows)(Loss loss, const float* outputs, const float* targets, double* out, std::int64_t rows,
                    std::int64_t samples, std::int64_t columns);

    /// The same of softmax, whose targets are labels in [0, N).
    double (*softmax_gradient)(const float* logits, const std::int64_t* labels, T* deltas, std::int64_t rows,
                               std::int64_t columns, float* bias_gradients);
    LossSums (*softmax_evaluate)(const float* logits, const std::int64_t* labels, std::int64_t rows,
                                 std::int64_t columns);
};

}  // namespace pyddl::kernels
