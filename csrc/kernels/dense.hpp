/// One dense layer on oneDNN. For chains of layers, DenseNetwork keeps more between calls.
/// Letters: B rows, I inputs, O outputs. Matrices are row-major and contiguous; weights are (O, I). Outputs
/// overwritten.
#pragma once
#include <span>

#include "kernels/activations.hpp"
#include "kernels/matrix_view.hpp"

namespace pyddl::kernels {

/// out (B, O) := activation(rows weights^T + bias).
/// @param rows (B, I)   @param weights (O, I)   @param bias (O), or empty: none   @param out not overlapping
/// rows
/// @throws std::invalid_argument when two shapes disagree
/// Cost: 2 B I O flop.
void dense_forward(MatrixView<const float> rows, MatrixView<const float> weights, std::span<const float> bias,
                   Activation activation, MatrixView<float> out);

/// Gradients of sum_b f(out_b), given d f / d out in `deltas`.
/// @param outputs (B, O), what dense_forward gave
/// @param deltas (B, O), in: d f / d outputs; out: d f / d pre-activations
/// @param weight_gradients out, (O, I): sum over rows   @param bias_gradients out, (O), or empty: not wanted
/// @param row_gradients out, (B, I): d f / d rows, or data == nullptr: not wanted
/// @throws std::invalid_argument when two shapes disagree
/// Cost: 2 B I O flop, twice that with row_gradients.
void dense_backward(MatrixView<const float> rows, MatrixView<const float> weights, MatrixView<const float> outputs,
                    Activation activation, MatrixView<float> deltas, MatrixView<float> weight_gradients,
                    std::span<float> bias_gradients, MatrixView<float> row_gradients);

}  // namespace pyddl::kernels
