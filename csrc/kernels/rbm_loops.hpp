/// The vectorised passes of Boltzmann machines; see simd.hpp, and kernels/rbm.hpp for letters.
/// R rows, N columns; matrices are row-major and contiguous. Sums do not depend on the number of threads.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// What a unit that is summed out adds to a log probability, where its input is x.
enum class Term {
    softplus,  ///< log(1 + exp(x)): a unit of 0 and 1
    square,    ///< half_precision x^2: a Gaussian one
};

struct RbmTable {
    /// sums (N) := column sums of x (R, N).
    void (*column_sums)(const float* x, std::int64_t rows, std::int64_t columns, float* sums);

    /// x (R, N) := factor * sigmoid(x), or factor * x where x is `given` as probabilities; sums (N) := column sums of
    /// the probabilities.
    void (*scaled_sigmoid)(float* x, std::int64_t rows, std::int64_t columns, bool given, float factor, float* sums);

    /// x (R, N), of probabilities, -= slopes (N) x (1 - x); sums (N) := column sums.
    void (*subtract_slope)(float* x, std::int64_t rows, std::int64_t columns, const float* slopes, float* sums);

    /// x (R, N) := (x + normal (R, N) * deviation (N)) * precision (N).
    void (*gaussian)(float* x, const float* normal, std::int64_t rows, std::int64_t columns, const float* deviation,
                     const float* precision);

    /// x (R, N) *= factors (N).
    void (*scale_columns)(float* x, std::int64_t rows, std::int64_t columns, const float* factors);

    /// x (R, N) := beta x + shift (N).
    void (*tempered)(float* x, std::int64_t rows, std::int64_t columns, float beta, const float* shift);

    /// out (R) := sums over n of softplus(beta x) for each row.
    void (*row_softplus)(const float* x, std::int64_t rows, std::int64_t columns, float beta, double* out);

    /// out (R) := x (R, N) w (N).
    void (*dot_rows)(const float* x, std::int64_t rows, std::int64_t columns, const float* w, double* out);

    /// out (R) := sums over n of x (R, N) y (R, N) for each row.
    void (*dot_pairs)(const float* x, const float* y, std::int64_t rows, std::int64_t columns, double* out);

    /// out (N) -= factors (R)' x (R, N).
    void (*subtract_combination)(const float* x, std::int64_t rows, std::int64_t columns, const float* factors,
                                 float* out);

    /// sums (N) += scale times the column sums of (x (R, N) * factors (N) - centre (N))^2.
    void (*add_squares)(const float* x, const float* factors, std::int64_t rows, std::int64_t columns,
                        const float* centre, float scale, float* sums);

    /// out (R): the cross-entropy, in nats, of `count` visible units given all others, times V / count. Units of row r
    /// are floor((place[r] + k) V / count), k = 0 .. count - 1, place in [0, 1): each unit equally often, all where
    /// count is V.
    /// @param v (R, V) in [0, 1]   @param x (R, H) = v w + c   @param w (V, H)   @param b (V)
    void (*conditional_loss)(const float* v, const float* x, const float* w, const float* b, const float* place,
                             std::int64_t count, std::int64_t R, std::int64_t V, std::int64_t H, double* out);

    /// Sum over n of the terms of y + t.
    double (*terms)(Term term, const float* y, const float* t, const float* half_precision, std::int64_t n);
};

}  // namespace pyddl::kernels
