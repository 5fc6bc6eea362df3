/// The vectorised passes of spike-and-slab machines; see simd.hpp, and kernels/ssrbm.hpp for letters.
/// R rows; matrices are row-major and contiguous, but noise, whose rows lie `stride` apart. Sums do not depend on the
/// number of threads.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// The units of one machine. Slab k of spike i is at k H + i.
struct SpikeUnits {
    std::int64_t H, K;
    const float* bias;          ///< (H)
    const float* slab_mean;     ///< (S)
    const float* half_inverse;  ///< (S): 1 / (2 alpha)
    const float* deviation;     ///< (S): alpha^-1/2
    const float* phi;           ///< (H) where a spike has one precision for all visible units; or null
};

struct SsrbmTable {
    /// out (R, V) := (v - mean (V)) factor.
    void (*standardise)(const float* v, const float* mean, float factor, std::int64_t rows, std::int64_t V, float* out);

    /// out (R, V) := u factor + mean (V); out may be u.
    void (*restore)(const float* u, const float* mean, float factor, std::int64_t rows, std::int64_t V, float* out);

    /// out (n) := x^2.
    void (*square)(const float* x, std::int64_t n, float* out);

    /// out (n) := exp(x).
    void (*exponentials)(const float* x, std::int64_t n, float* out);

    /// out (R) := squared norms of the rows of u (R, V).
    void (*row_squares)(const float* u, std::int64_t rows, std::int64_t V, float* out);

    /// sums (V) += factor times the column sums of u (R, V)^2.
    void (*column_squares)(const float* u, std::int64_t rows, std::int64_t V, float factor, float* sums);

    /// x (R, H) := b - q / 2 + sum_k (mu y + y^2 / (2 alpha)) of slab inputs y (R, S). q (R, H) or null; where units
    /// have phi, q is phi times `squares` (R).
    void (*spike_inputs)(const SpikeUnits&, const float* y, const float* q, const float* squares, std::int64_t rows,
                         float* x);

    /// y (R, S), slab inputs, := h (R, H) (y / alpha + mu + noise alpha^-1/2): a sample, or without noise the mean.
    void (*slabs)(const SpikeUnits&, float* y, const float* h, const float* noise, std::int64_t stride,
                  std::int64_t rows);

    /// Of spike inputs x (R, H) and slab inputs y (R, S), with p = sigmoid(x): x := f p and y := f p (y / alpha + mu),
    /// f = `factor`. Column sums: of_bias (H) of f p, of_mean (S) of f p y, of_alpha (S) of f p y^2 / (2 alpha).
    void (*statistics)(const SpikeUnits&, float* y, float* x, std::int64_t rows, float factor, float* of_bias,
                       float* of_mean, float* of_alpha);

    /// precision (R, V) := lambda (V) + shift (R).
    void (*precisions)(const float* lambda, const double* shift, std::int64_t rows, std::int64_t V, float* precision);

    /// m (R, V) := m / precision, precision (R, V) := precision^-1/2.
    void (*settle)(float* m, float* precision, std::int64_t rows, std::int64_t V);

    /// out (R, V) := mean + deviation noise, and squares (R) its squared norms. Rows of deviations lie
    /// `deviation_stride` apart, 0: one for all rows.
    void (*propose)(const float* mean, const float* deviation, std::int64_t deviation_stride, const float* noise,
                    std::int64_t stride, std::int64_t rows, std::int64_t V, float* out, float* squares);

    /// out (R) := sum_i lambda_i u_i^2 / 2.
    void (*quadratic)(const float* u, const float* lambda, std::int64_t rows, std::int64_t V, double* out);

    /// The sum over rows of squared errors of `count` visible units, times V / count; units as in
    /// RbmTable::conditional_loss. Of slabs' means t = -y (R, S) and spikes' p = -x (R, H), as `statistics` leaves them
    /// for factor -1.
    /// @param phi (V, H), or (H) where units have phi, or null
    double (*unit_errors)(const SpikeUnits&, const float* u, const float* y, const float* x, const float* w,
                          const float* phi, const float* lambda, const float* place, std::int64_t count,
                          std::int64_t rows, std::int64_t V);

    /// to (V, S) += w factors (S).
    void (*add_scaled_columns)(const float* w, const float* factors, std::int64_t V, std::int64_t S, float* to);

    /// Sums over d: sums (S) := of |w|, or, `squared`, of w^2, for w (V, S).
    void (*weight_sums)(const float* w, bool squared, std::int64_t V, std::int64_t S, float* sums);

    /// phi (V, H) := exp(log_phi) + sum_k |w| sums / alpha.
    void (*guarded)(const SpikeUnits&, const float* w, const float* sums, const float* log_phi, std::int64_t V,
                    float* phi);

    /// Back through `guarded`, for slopes g (V, H) by phi: log_phi's slopes (V, H), w's added to (V, S), and
    /// along (S) := sum_d g |w|.
    void (*guarded_slopes)(const SpikeUnits&, const float* w, const float* sums, const float* log_phi, const float* g,
                           std::int64_t V, float* of_log_phi, float* of_w, float* along);
};

}  // namespace pyddl::kernels
