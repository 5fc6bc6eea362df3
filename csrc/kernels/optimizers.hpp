/// Update rules, each one fused pass over parameters, gradients and state.
///
/// Letters here and in optimizers.cpp: p parameters, g gradients, n elements. All other arrays are the
/// algorithm's state, zero before the first update. The pass first forms, per element,
///
///     gradient = scale g + weight_decay p         (adamw: scale g; it shrinks p by 1 - learning_rate
///     weight_decay)
///
/// then applies the rule given at each member below, with e = learning_rate, and at last clamps p to
/// [-bound, bound]; where `rounded` is not null, it receives p in bfloat16, for products to read. g is only read.
/// Arrays do not overlap. NaN stays NaN.
///
/// Every element is computed by itself with IEEE operations that no compiler may contract, so a result does
/// not depend on threads, on the SIMD level or on how a vector is cut into ranges. Results below the smallest
/// normal number (1e-38) become zero on x86-64. Cost: one pass over memory; threads split long vectors; no
/// allocation.
#pragma once
#include <cstdint>

#include "kernels/element.hpp"

namespace pyddl::kernels {

/// What all rules have in common. `scale` carries 1 / samples and the clip factor; bound = infinity: no
/// projection.
struct UpdateOptions {
    float learning_rate;
    float scale;
    float weight_decay;
    float bound;
    Bfloat16* rounded = nullptr;
};

struct OptimizerTable {
    /// p -= e gradient
    void (*sgd)(float* p, const float* g, std::int64_t n, const UpdateOptions&);

    /// Classical momentum (Polyak 1964), as written by Sutskever et al. (2013):
    ///     velocity = momentum velocity - e gradient;  p += velocity
    void (*momentum)(float* p, const float* g, float* velocity, std::int64_t n, const UpdateOptions&, float momentum);

    /// Nesterov's accelerated gradient (Sutskever et al. 2013, equations 3 and 4) on the look-ahead point
    /// p = theta + momentum velocity, where the gradient is taken:
    ///     velocity = momentum velocity - e gradient;  p += next_momentum velocity - e gradient
    void (*nesterov)(float* p, const float* g, float* velocity, std::int64_t n, const UpdateOptions&, float momentum,
                     float next_momentum);

    /// AdaGrad (Duchi, Hazan, Singer 2011):
    ///     sum += gradient^2;  p -= e gradient / (sqrt(sum) + epsilon)
    void (*adagrad)(float* p, const float* g, float* sum, std::int64_t n, const UpdateOptions&, float epsilon);

    /// RMSProp (Tieleman, Hinton 2012):
    ///     square = decay square + (1 - decay) gradient^2;  p -= e gradient / (sqrt(square) + epsilon)
    void (*rmsprop)(float* p, const float* g, float* square, std::int64_t n, const UpdateOptions&, double decay,
                    float epsilon);

    /// AdaDelta (Zeiler 2012, algorithm 1), the change multiplied by e:
    ///     square = decay square + (1 - decay) gradient^2
    ///     change = gradient sqrt(change_square + epsilon) / sqrt(square + epsilon);  p -= e change
    ///     change_square = decay change_square + (1 - decay) change^2
    void (*adadelta)(float* p, const float* g, float* square, float* change_square, std::int64_t n,
                     const UpdateOptions&, double decay, float epsilon);

    /// Adam (Kingma, Ba 2015, algorithm 1), at the update numbered step = 0, 1, ...:
    ///     first = beta1 first + (1 - beta1) gradient;  second = beta2 second + (1 - beta2) gradient^2
    ///     p -= e first / (1 - beta1^(step + 1)) / (sqrt(second / (1 - beta2^(step + 1))) + epsilon)
    void (*adam)(float* p, const float* g, float* first, float* second, std::int64_t n, const UpdateOptions&,
                 double beta1, double beta2, float epsilon, std::int64_t step);

    /// AdamW (Loshchilov, Hutter 2019, algorithm 2): p *= 1 - e weight_decay, then Adam on scale g alone.
    void (*adamw)(float* p, const float* g, float* first, float* second, std::int64_t n, const UpdateOptions&,
                  double beta1, double beta2, float epsilon, std::int64_t step);
};

}  // namespace pyddl::kernels
