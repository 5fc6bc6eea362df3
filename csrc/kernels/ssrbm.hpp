/// Spike-and-slab restricted Boltzmann machine: conditionals, free energy, Gibbs chains, contrastive divergence, and
/// the exact partition function as a sum of Gaussian normalisers.
///
/// Letters here and in ssrbm.cpp: B rows of a batch, N chains, V visible units, H spikes (0 or 1), K slabs (real) of
/// each spike, S = K H slabs; slab k of spike i is at k H + i. Matrices are row-major and contiguous; weights w are
/// (V, S). With u = (v - mean) / scale of the data v:
///
///     E(u, s, h) = u'(Lambda + sum_i h_i Phi_i)u / 2 - sum_i b_i h_i
///                  + sum_ik alpha_ik (s_ik - mu_ik h_i)^2 / 2 - sum_ik h_i s_ik u'w_ik
///
/// with diagonal Lambda and Phi_i; the plain machine has Phi = 0 and mu = 0. Given h, u is Gaussian with the inverse
/// covariance Lambda + sum_i h_i (Phi_i - sum_k w_ik w_ik' / alpha_ik), if that is positive definite: the state is
/// proper. A ball |u| < radius makes every machine proper. Where there is Phi it is
///
///     diagonal    Phi_id = exp(log_phi_di) + sum_k |w_dik| sum_e |w_eik| / alpha_ik
///     scalar      Phi_id = exp(log_phi_i) + sum_k |w_ik|^2 / alpha_ik
///
/// so that Phi_i - sum_k w_ik w_ik' / alpha_ik is positive definite (in the first case because its diagonal dominates):
/// every state is proper, whatever the parameters.
///
/// Sources: Courville, Bergstra, Bengio (2011), A spike and slab restricted Boltzmann machine, AISTATS; Courville,
/// Bergstra, Bengio (2011), Unsupervised models of images by spike-and-slab RBMs, ICML.
#pragma once
#include <cstdint>
#include <mutex>
#include <span>

#include "kernels/element.hpp"
#include "kernels/layer.hpp"
#include "kernels/matrix_view.hpp"
#include "kernels/product.hpp"
#include "kernels/product_cache.hpp"
#include "kernels/random.hpp"
#include "kernels/ready.hpp"
#include "kernels/ssrbm_loops.hpp"

namespace pyddl::kernels {

/// Sizes, and where in the vector of parameters the tensors begin; -1: there is none.
struct SsrbmShape {
    std::int64_t visible, hidden, pool = 1;
    std::int64_t weights = 0, spike_bias = 0;
    std::int64_t log_precision = 0;  ///< of Lambda
    std::int64_t slab_mean = -1;     ///< mu, (K, H)
    std::int64_t log_phi = -1;       ///< (V, H) or (H)
    std::int64_t log_alpha = -1;     ///< (K, H) or one; none: alpha is 1
    bool diagonal_precision = true;  ///< Lambda is (V), not one number; Phi (V, H), not (H)
    bool diagonal_alpha = false;
};

/// How the machine sees rows.
struct SsrbmView {
    std::span<const float> mean;  ///< (V), subtracted first
    float scale = 1;              ///< divided by then
    float radius = 0;             ///< of the ball around the mean, in the units of the rows; 0: there is none
};

/// One gradient.
struct SsrbmTurn {
    std::span<const float> parameters;
    std::span<float> gradients;
    std::span<const Bfloat16> rounded;  ///< the parameters in bfloat16, where someone has them

    MatrixView<const float> rows;         ///< (B, V)
    std::span<const std::int64_t> index;  ///< their global numbers
    bool persistent = false;              ///< chains go on where they were; else each begins at a row
    MatrixView<float> chains;             ///< (N, V): u of persistent chains, moved
    std::span<const std::int64_t> numbers;
    double weight = 1;  ///< of a chain against a row in the negative statistics
    std::int64_t gibbs_steps = 1;

    std::uint64_t seed = 0, purpose = 0, step = 0, turn = 0;
    Ready ready;
};

/// Sums over rows.
struct SsrbmScores {
    double squared_error = 0, free_energy = 0, rejected = 0;
};

/// Of some states h.
struct SsrbmStates {
    double log_sum = 0;         ///< of their normalisers
    std::int64_t improper = 0;  ///< which have none
};

/// Keeps oneDNN primitives by shape, and memory, but no parameter from one call to the next. Calls from several threads
/// wait for each other; a steady step allocates nothing. All numbers are keyed by the global number of a row or chain,
/// so nothing depends on the batch around it, but for rounding.
class Ssrbm {
  public:
    static constexpr std::int64_t most_gibbs_steps = 2000, most_turns = 16, enumerated = 20;
    static constexpr int attempts = 32;          ///< to find visible units within the ball, in one Gibbs step
    static constexpr double most_log_alpha = 2;  ///< values of log_alpha beyond count as this

    /// @throws std::invalid_argument when a size is below 1, or the processor lacks bfloat16
    Ssrbm(const SsrbmShape& shape, Element element);

    /// out (B, H) := inputs of the spikes, b_i - u'Phi_i u / 2 + sum_k (mu_ik y_ik + y_ik^2 / (2 alpha_ik)), y = w'u;
    /// or, with `mean`, their sigmoid, P(h = 1 | v).
    void spikes(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v, bool mean,
                MatrixView<float> out);

    /// out (B, V) := the mean of v given the means of spikes and slabs given rows v.
    void reconstruct(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v,
                     MatrixView<float> out);

    /// out (B) := F(v) = u'Lambda u / 2 - sum_i softplus(spike input) - sum_ik log(2 pi / alpha_ik) / 2.
    void free_energy(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v,
                     std::span<double> out);

    /// Overwrites the gradient of minus the log-likelihood, sum over rows of the turn, with that of contrastive
    /// divergence, and returns an estimate, without bias, of the sum of squared errors of `reconstruct`: of 8 visible
    /// units of each row.
    /// Cost: 2 (4 + 2 k) B V S flop for k Gibbs steps of as many chains as rows, with diagonal Phi 2 (4 + 2 k) B V H
    /// more. Threads: those of oneDNN, and of passes over rows.
    double gradient(const SsrbmTurn& turn, const SsrbmView& view);

    /// Sums over rows of squared errors, of free energies, and of rows whose next Gibbs step, keyed by the row, first
    /// proposes visible units outside the ball.
    SsrbmScores evaluate(std::span<const float> parameters, const SsrbmView& view, MatrixView<const float> v,
                         std::span<const std::int64_t> index, const RandomKey& key);

    /// Moves v (N, V) by `steps` Gibbs steps, of which the first has the number key.step.
    void gibbs(std::span<const float> parameters, const SsrbmView& view, MatrixView<float> v,
               std::span<const std::int64_t> numbers, const RandomKey& key, std::int64_t steps);

    /// The states h numbered [begin, end), spike i at bit i, and their normalisers over all of u, without a ball;
    /// Lambda less `shift`.
    SsrbmStates log_normalisers(std::span<const float> parameters, std::int64_t begin, std::int64_t end, double shift);

    /// Floating-point operations of a gradient's products, for each row: chains as many as rows.
    std::int64_t flops(std::int64_t gibbs_steps) const;

  private:
    bool has_phi() const { return shape_.log_phi >= 0; }
    bool has_matrix_phi() const { return has_phi() && shape_.diagonal_precision; }
    std::int64_t slabs() const { return shape_.hidden * shape_.pool; }
    const float* weights() const { return parameters_.data() + shape_.weights; }

    void begin(std::span<const float> parameters, const SsrbmView& view, std::int64_t rows,
               std::span<const Bfloat16> rounded = {});
    const void* as_element(const float* from, std::int64_t size, Scratch& scratch);
    const void* weights_as_element();
    void inputs(const float* u, std::int64_t rows, float* y, float* x);
    void visible_mean(const float* s, const float* h, std::int64_t rows, float* m);
    std::int64_t gibbs_step(float* u, std::int64_t rows, const std::int64_t* numbers, RandomKey key);
    std::int64_t visible_sample(const float* m, std::int64_t rows, const std::int64_t* numbers, RandomKey key,
                                const float* noise, float* u);
    double constant() const;
    void check_view(const SsrbmView& view) const;
    void check_turn(const SsrbmTurn& turn) const;
    void slopes_of_phi(float* gradients, const float* by_phi);

    SsrbmShape shape_;
    Element element_;
    std::int64_t end_;  ///< floats that a vector of parameters must have
    ProductCache products_;

    // Of the call under way.
    std::span<const float> parameters_;
    std::span<const Bfloat16> rounded_;
    Element in_ = Element::float32;
    bool weights_rounded_ = false;
    SpikeUnits units_{};
    const float *lambda_ = nullptr, *phi_ = nullptr, *sums_ = nullptr;
    const float* deviation_ = nullptr;  ///< (V): Lambda^-1/2, of all rows, where there is no Phi
    std::int64_t deviation_stride_ = 0;
    float radius_ = 0;

    Scratch derived_, phi_scratch_, u_, x_, y_, q_, squares_, spikes_, noise_, visible_, deviations_, proposals_,
        norms_;
    Scratch retry_, shifts_, slopes_, along_, work_, places_, energies_;
    Scratch rounded_rows_, rounded_states_, rounded_weights_;
    std::mutex busy_;
};

}  // namespace pyddl::kernels
