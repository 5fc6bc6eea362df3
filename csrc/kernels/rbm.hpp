/// Restricted Boltzmann machine: conditionals, free energy, Gibbs chains, contrastive divergence, exchanges along a
/// ladder of machines, and what a likelihood needs: annealed importance sampling and enumeration.
///
/// Letters here and in rbm.cpp: B rows of a batch, N chains, V visible and H hidden units. Matrices are row-major and
/// contiguous; weights w are (V, H), b are visible and c hidden biases. Visible units are
///
///     Bernoulli   E(v, h) = -v'wh - b'v - c'h
///     Gaussian    E(v, h) = sum_i (v_i - b_i)^2 / (2 s_i^2) - u'wh - c'h   with u_i = v_i / s_i^2
///
/// where the s_i^2 are 1, or exp(log_variance_i). With u = v for Bernoulli units the hidden units' inputs are
/// u w + c in both. Where hidden units are a Gaussian code the term -c'h gives way to |h - c|^2 / 2: their mean is
/// u w + c itself, their variance 1 (Hinton, Salakhutdinov 2006). Below, P(h = 1 | v) then stands for that mean.
///
/// Sources: Hinton (2002), Neural Computation 14(8), 1771-1800; Tieleman (2008), ICML; Melchior, Fischer, Wiskott
/// (2016), JMLR 17(99); Salakhutdinov, Murray (2008), ICML.
#pragma once
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <span>

#include "kernels/element.hpp"
#include "kernels/layer.hpp"
#include "kernels/matrix_view.hpp"
#include "kernels/product.hpp"
#include "kernels/random.hpp"
#include "kernels/ready.hpp"
#include "kernels/sparse.hpp"

namespace pyddl::kernels {

enum class Visible { bernoulli, gaussian };

/// Sizes, and where in the vector of parameters the tensors begin.
struct RbmShape {
    std::int64_t visible, hidden;
    Visible kind = Visible::bernoulli;
    std::int64_t weights = 0, visible_bias = 0, hidden_bias = 0;
    std::int64_t log_variance = -1;  ///< -1: variances are 1
    bool learned = true;             ///< whether variances have a gradient
    bool code = false;               ///< hidden units are Gaussian; visible ones must be Bernoulli
};

/// States drawn from a machine near that of a turn, with which its persistent chains may change places: R for each of
/// the N chains, its own.
struct RbmReservoir {
    std::span<const float> parameters;  ///< of that machine; empty: there is no reservoir
    MatrixView<float> states;           ///< (N, R H), hidden units
    MatrixView<float> energies;         ///< (N, R), their free energies under that machine
    MatrixView<float> works;  ///< (N, 2), out: free energy under the turn's machine minus that under the reservoir's,
                              ///< of the state that was drawn, and of the chain's
    std::int64_t parity = 0;  ///< those chains try whose number is even or odd as this is
};

/// One gradient. Spans that are empty and views without data are what the turn does not have.
struct RbmTurn {
    std::span<const float> parameters;
    std::span<float> gradients;
    std::span<const Bfloat16> rounded;  ///< the parameters in bfloat16, where someone has them

    MatrixView<const float> rows;         ///< (B, V)
    std::span<const std::int64_t> index;  ///< their global numbers
    bool persistent = false;              ///< chains go on where they were; else each begins at a row
    MatrixView<float> chains;             ///< (N, H): hidden units of persistent chains, moved
    std::span<const std::int64_t> numbers;
    RbmReservoir reservoir;  ///< where chains are persistent
    double weight = 1;       ///< of a chain against a row in the negative statistics
    std::int64_t gibbs_steps = 1;
    bool mean_reconstruction = false;  ///< the last visible units of chains that begin at rows are probabilities

    std::span<float> visible_offsets, hidden_offsets;  ///< of u and h, moved; empty: not centered
    float offset_rate = 0;
    float sparsity = 0, sparsity_cost = 0;  ///< wanted mean of hidden units, and the cost of missing it

    std::uint64_t seed = 0, purpose = 0, step = 0, turn = 0;
    Sum sum;
    Ready ready;
};

/// Sums over rows.
struct RbmScores {
    double loss = 0, squared_error = 0, free_energy = 0;
};

/// Keeps oneDNN primitives by number of rows, and memory, but no parameter from one call to the next. Calls from
/// several threads wait for each other; a steady step allocates nothing. All numbers are keyed by the global number of
/// a row or chain, so nothing depends on the batch around it, but for rounding.
class Rbm {
  public:
    static constexpr std::int64_t most_gibbs_steps = 2000, most_turns = 16, enumerated = 25, low_bits = 8;

    /// @throws std::invalid_argument when a size is below 1, both sides are Gaussian, or the processor lacks bfloat16
    Rbm(const RbmShape& shape, Element element);

    /// out (B, H) := P(h = 1 | v) of rows v (B, V).
    void hidden_mean(std::span<const float> parameters, MatrixView<const float> v, MatrixView<float> out);

    /// out (B, V) := the mean of v given rows h (B, H).
    void visible_mean(std::span<const float> parameters, MatrixView<const float> h, MatrixView<float> out);

    /// out (B) := F(v) = -log sum_h exp(-E(v, h)).
    void free_energy(std::span<const float> parameters, MatrixView<const float> v, std::span<double> out);

    /// out (B) := the cross-entropy of each visible unit given all others, summed over the units: minus the logarithm
    /// of the pseudo-likelihood where v is binary. Of `count` units, drawn by the key, times V / count. Bernoulli
    /// units.
    void conditional_loss(std::span<const float> parameters, MatrixView<const float> v,
                          std::span<const std::int64_t> index, const RandomKey& key, std::int64_t count,
                          std::span<double> out);

    /// Overwrites the gradient of minus the log-likelihood, sum over rows of the turn, with that of contrastive
    /// divergence, and returns the sum of the losses: for Bernoulli units `conditional_loss` of one unit for each row,
    /// for Gaussian ones on either side the squared error of the mean-field reconstruction.
    ///
    /// With offsets the gradient is the centered one (Melchior et al.): of plain parameters whose weights move by
    /// G = <(u - mu)(h - lam)'>, b moves by <u> - G lam, c by <h> - G'mu.
    /// With sparsity q* the loss has besides, without being reported, cost * B * sum_j KL(q* || q_j), where q_j are the
    /// means of hidden units over the rows of all workers.
    /// With a reservoir every second chain, before its first step, changes places with one of its reservoir's states or
    /// does not, so that both distributions stay as they are (Metropolis, by free energies of hidden units). Visible
    /// units that are mostly zeros are not multiplied: see kernels/sparse.hpp. Cost: at most 2 (3 + 2 k) B V H flop for
    /// k Gibbs steps of as many chains as rows, persistent or not; Gaussian units: once 2 B V H more; with a reservoir
    /// as much. A code has no sparsity. Threads: those of oneDNN, and of passes over rows.
    double gradient(const RbmTurn& turn);

    /// out (B) := -log of the sum over v, or the integral, of exp(-E(v, h)).
    void hidden_free_energy(std::span<const float> parameters, MatrixView<const float> h, std::span<double> out);

    /// Sweeps of N chains on a ladder of L machines: each chain takes a Gibbs step on each rung, then its states on
    /// rungs i and i + 1 change places or do not, for even i in even sweeps, for odd i in odd ones.
    /// @param rungs (L, parameters)   @param states (N, at least L H), hidden units, moved   @param first number of the
    /// first sweep, which completes the key
    /// @param works out, (sweeps, L - 1, 2, N): for each pair of rungs the upper machine's free energy minus the lower
    /// one's, of the lower and of the upper state before the exchange; NaN where there was none
    /// @param energies out, (sweeps, N): free energies on the last rung, before exchanges
    /// Cost: 2 * 3 N V H flop for each sweep and rung. Memory: inputs of all visible units on all rungs.
    void climb(MatrixView<const float> rungs, MatrixView<float> states, std::span<const std::int64_t> numbers,
               const RandomKey& key, std::int64_t first, std::int64_t sweeps, std::span<double> works,
               MatrixView<double> energies);

    /// Sums over rows of the loss (of `count` units for each row), of squared errors of mean-field reconstructions and
    /// of free energies.
    RbmScores evaluate(std::span<const float> parameters, MatrixView<const float> v,
                       std::span<const std::int64_t> index, const RandomKey& key, std::int64_t count);

    /// Moves v (N, V) by `steps` Gibbs steps, of which the first has the number key.step.
    /// @param energies out, (steps, N): free energies before each step; or no data
    /// @param mean out, (N, V): mean of the last step's visible units; or no data
    void gibbs(std::span<const float> parameters, MatrixView<float> v, std::span<const std::int64_t> numbers,
               const RandomKey& key, std::int64_t steps, MatrixView<double> energies, MatrixView<float> mean);

    /// Annealed importance sampling along
    /// log p*_beta(v) = (1 - beta) base'v + beta b'v + sum_j log(1 + exp(beta x_j)), x = u w + c,
    /// where for Gaussian units base is b. Adds to log_weights (N), for each two neighbours of betas,
    /// log p*_next(v) - log p*_before(v), and moves v (N, V) under the next. Rising betas lead from the base to the
    /// model, falling ones back.
    void anneal(std::span<const float> parameters, std::span<const float> base, std::span<const double> betas,
                MatrixView<float> v, std::span<const std::int64_t> numbers, const RandomKey& key,
                std::span<double> log_weights);

    /// log of the sum of exp(-E), the other side summed out, over those states of the hidden units (or visible ones)
    /// whose upper bits, all but the last `low_bits`, are in [begin, end); of Gaussian units without
    /// sum log(2 pi s^2) / 2 and b^2 / (2 s^2).
    double log_sum(std::span<const float> parameters, bool of_hidden, std::int64_t begin, std::int64_t end);

    /// How many numbers the upper bits are.
    std::int64_t pieces(bool of_hidden) const;

    /// Floating-point operations of a gradient's products, for each row: chains as many as rows.
    std::int64_t flops(std::int64_t gibbs_steps) const;

  private:
    /// The primitives for one number of rows and threads.
    struct Products {
        std::int64_t rows;
        int threads;
        std::optional<Product> hidden[2], visible[2], statistics[2];  ///< [1]: in float32
    };

    const float* weights(std::span<const float> parameters) const { return parameters.data() + shape_.weights; }
    const float* visible_bias(std::span<const float> parameters) const {
        return parameters.data() + shape_.visible_bias;
    }
    const float* hidden_bias(std::span<const float> parameters) const { return parameters.data() + shape_.hidden_bias; }
    bool gaussian() const { return shape_.kind == Visible::gaussian; }
    bool scores_reconstruction() const { return gaussian() || shape_.code; }  ///< the loss is a squared error
    void refuse_code(const char* what) const;

    void begin(std::span<const float> parameters, std::int64_t rows, std::span<const Bfloat16> rounded = {});
    Products& products_for(std::int64_t rows);
    const void* as_element(const float* from, std::int64_t size, Scratch& scratch);
    const void* weights_as_element();
    void run(std::optional<Product>& product, const ProductShape& shape, const void* a, const void* b,
             const float* bias, float* c);
    void hidden_inputs(const float* u, std::int64_t rows, float* x);
    void hidden_sample(float* h, const float* x, std::int64_t rows, const std::int64_t* numbers, const RandomKey& key);
    bool list(const float* u, std::int64_t rows, bool more = false);
    Lists listed() const;
    void hidden_inputs_of_few(const float* u, std::int64_t rows, float* x);
    void visible_inputs(const float* h, std::int64_t rows, float* y);
    void visible_sample(float* y, std::int64_t rows, const std::int64_t* numbers, const RandomKey& key);
    void scaled(float* v, std::int64_t rows, const float* factors);
    const float* inputs_of(MatrixView<const float> v);
    void free_energies(const float* u, const float* x, std::int64_t rows, double* out);
    void hidden_energies(const float* h, const float* y, std::int64_t rows, double* out, bool alike = false);
    void exchange(const RbmTurn& turn, float* y, const RandomKey& key);
    void places_of(std::span<const std::int64_t> index, const RandomKey& key);
    double squared_error(MatrixView<const float> v, const float* h);
    void check_rows(const char* name, MatrixView<const float> m, std::int64_t columns,
                    std::span<const std::int64_t> numbers) const;
    void check_turn(const RbmTurn& turn) const;

    RbmShape shape_;
    Element element_;
    std::int64_t end_;  ///< floats that a vector of parameters must have
    std::list<Products> products_;

    // Of the call under way.
    std::span<const float> parameters_;
    std::span<const Bfloat16> rounded_;
    Element in_ = Element::float32;
    bool weights_rounded_ = false;

    Scratch u_, x_, hidden_, visible_, normal_, places_, work_, energies_, sums_, dots_;
    Scratch precision_, variance_, deviation_, half_precision_;
    Scratch rounded_rows_, rounded_states_, rounded_weights_, product_scratch_;
    Scratch transposed_, table_, bits_;
    Scratch ladder_inputs_, ladder_energies_;
    Scratch first_, place_, value_, column_first_, column_place_, column_value_;
    std::int64_t listed_rows_ = 0;
    std::mutex busy_;
};

}  // namespace pyddl::kernels
