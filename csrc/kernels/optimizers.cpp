#include "kernels/optimizers.hpp"

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace pyddl::kernels {
namespace {

/// Moments of units that died shrink by a constant factor until they are subnormal, which many processors
/// compute a hundred times slower. Flush them to zero, in this thread, while this object lives.
class FlushSubnormals {
  public:
#if defined(__x86_64__)
    FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // FTZ and DAZ
    ~FlushSubnormals() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#endif
};

constexpr std::int64_t ahead = 512;  // floats

/// p[i] := element(i) for i in [begin, end), also rounded. `element` comes by value, to keep its constants in
/// registers. The arrays, p and the others, are fetched ahead by hand: they lie at equal offsets in their pages, where
/// hardware prefetchers do half as well.
template <class Element, class... Arrays>
void one_thread(std::int64_t begin, std::int64_t end, Bfloat16* rounded, Element element, float* p, Arrays... arrays) {
    const FlushSubnormals flush;
    std::int64_t i = begin;
    for (; i + line <= end; i += line) {
        __builtin_prefetch(p + i + ahead);
        (__builtin_prefetch(arrays + i + ahead), ...);
        float fresh[line];  // stays in registers: rounding what has just been stored would wait for it
#pragma omp simd
        for (std::int64_t j = 0; j < line; ++j) p[i + j] = fresh[j] = element(i + j);
        if (rounded) store_line(rounded + i, fresh);
    }
    for (; i < end; ++i) {
        p[i] = element(i);
        if (rounded) store(rounded + i, p[i]);
    }
}

/// p[i] := element(i) for i in [0, n), on all threads if n is large. The arrays are those that `element` walks
/// over, p first.
template <class Element, class... Arrays>
void for_each(std::int64_t n, Bfloat16* rounded, Element element, Arrays... arrays) {
    if (n < parallel_elements) return one_thread(0, n, rounded, element, arrays...);
    const std::int64_t pieces = n / (parallel_elements / 4);
#pragma omp parallel for schedule(static) num_threads(threads())
    for (std::int64_t k = 0; k < pieces; ++k)
        one_thread(n * k / pieces, n * (k + 1) / pieces, rounded, element, arrays...);
}

inline float root(float x) { return __builtin_sqrtf(x); }

/// NaN stays NaN. Written so that it becomes two instructions: a minimum and a maximum that give x where in doubt.
inline float clamp(float x, float bound) {
    const float above = -bound > x ? -bound : x;
    return bound < above ? bound : above;
}

void sgd(float* p, const float* g, std::int64_t n, const UpdateOptions& o) {
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float gradient = o.scale * g[i] + o.weight_decay * p[i];
            return clamp(p[i] - o.learning_rate * gradient, o.bound);
        },
        p, g);
}

void momentum(float* p, const float* g, float* velocity, std::int64_t n, const UpdateOptions& o, float momentum) {
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float gradient = o.scale * g[i] + o.weight_decay * p[i];
            const float v = momentum * velocity[i] - o.learning_rate * gradient;
            velocity[i] = v;
            return clamp(p[i] + v, o.bound);
        },
        p, g, velocity);
}

void nesterov(float* p, const float* g, float* velocity, std::int64_t n, const UpdateOptions& o, float momentum,
              float next_momentum) {
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float push = o.learning_rate * (o.scale * g[i] + o.weight_decay * p[i]);
            const float v = momentum * velocity[i] - push;
            velocity[i] = v;
            return clamp(p[i] + (next_momentum * v - push), o.bound);
        },
        p, g, velocity);
}

void adagrad(float* p, const float* g, float* sum, std::int64_t n, const UpdateOptions& o, float epsilon) {
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float gradient = o.scale * g[i] + o.weight_decay * p[i];
            const float s = sum[i] + gradient * gradient;
            sum[i] = s;
            return clamp(p[i] - o.learning_rate * gradient / (root(s) + epsilon), o.bound);
        },
        p, g, sum);
}

void rmsprop(float* p, const float* g, float* square, std::int64_t n, const UpdateOptions& o, double decay,
             float epsilon) {
    const float keep = static_cast<float>(decay), blend = static_cast<float>(1 - decay);
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float gradient = o.scale * g[i] + o.weight_decay * p[i];
            const float s = keep * square[i] + blend * (gradient * gradient);
            square[i] = s;
            return clamp(p[i] - o.learning_rate * gradient / (root(s) + epsilon), o.bound);
        },
        p, g, square);
}

void adadelta(float* p, const float* g, float* square, float* change_square, std::int64_t n, const UpdateOptions& o,
              double decay, float epsilon) {
    const float keep = static_cast<float>(decay), blend = static_cast<float>(1 - decay);
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float gradient = o.scale * g[i] + o.weight_decay * p[i];
            const float s = keep * square[i] + blend * (gradient * gradient);
            const float change = gradient * root((change_square[i] + epsilon) / (s + epsilon));
            square[i] = s;
            change_square[i] = keep * change_square[i] + blend * (change * change);
            return clamp(p[i] - o.learning_rate * change, o.bound);
        },
        p, g, square, change_square);
}

template <bool Decoupled>
void adam_or_adamw(float* p, const float* g, float* first, float* second, std::int64_t n, const UpdateOptions& o,
                   double beta1, double beta2, float epsilon, std::int64_t step) {
    const double updates = static_cast<double>(step + 1);
    const float keep1 = static_cast<float>(beta1), blend1 = static_cast<float>(1 - beta1);
    const float keep2 = static_cast<float>(beta2), blend2 = static_cast<float>(1 - beta2);
    // The corrections of the bias towards zero, moved out of the loop: e / (1 - beta1^t) and 1 / sqrt(1 -
    // beta2^t).
    const float rate = static_cast<float>(o.learning_rate / (1 - __builtin_pow(beta1, updates)));
    const float correction = static_cast<float>(1 / __builtin_sqrt(1 - __builtin_pow(beta2, updates)));
    const float shrink =
        static_cast<float>(1 - static_cast<double>(o.learning_rate) * static_cast<double>(o.weight_decay));
    for_each(
        n, o.rounded,
        [=](std::int64_t i) {
            const float gradient = Decoupled ? o.scale * g[i] : o.scale * g[i] + o.weight_decay * p[i];
            const float m = keep1 * first[i] + blend1 * gradient;
            const float v = keep2 * second[i] + blend2 * (gradient * gradient);
            first[i] = m;
            second[i] = v;
            const float start = Decoupled ? shrink * p[i] : p[i];
            return clamp(start - rate * m / (root(v) * correction + epsilon), o.bound);
        },
        p, g, first, second);
}

}  // namespace

template <>
const OptimizerTable& table<PYDDL_LEVEL, OptimizerTable>() {
    static constexpr OptimizerTable t{
        sgd, momentum, nesterov, adagrad, rmsprop, adadelta, adam_or_adamw<false>, adam_or_adamw<true>};
    return t;
}

}  // namespace pyddl::kernels
