// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/activations.hpp"

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/slopes.hpp"
#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

[[gnu::always_inline]] inline float relu(float x) { return x < 0.0f ? 0.0f : x; }

/// Negative numbers, from -0 to -infinity, are the bit patterns 0x8000 to 0xff80.
[[gnu::always_inline]] inline Bfloat16 relu(Bfloat16 x) {
    const auto above = static_cast<std::uint16_t>(x.bits - 0x8000u);
    return {above <= 0x7f80u ? std::uint16_t{0} : x.bits};
}

template <Activation A>
[[gnu::always_inline]] inline float activated(float x) {
    if constexpr (A == Activation::sigmoid) return sigmoid(x);
    if constexpr (A == Activation::leaky_relu) return x < 0.0f ? leak * x : x;
    if constexpr (A == Activation::tanh) return hyperbolic_tangent(x);
    if constexpr (A == Activation::softplus) return softplus(x);
    return x;
}

template <Activation A, class T>
[[gnu::always_inline]] inline void activate_one(T* value) {
    if constexpr (A == Activation::relu)
        *value = relu(*value);
    else
        store(value, activated<A>(load(value)));
}

// Blocks keep the inner loop free of what OpenMP's threads share, which would stop the compiler from vectorising it.
template <Activation A, class T>
void activate_all(T* values, std::int64_t size) {
    constexpr std::int64_t block = 1024;
#pragma omp parallel for schedule(static) if (size >= parallel_elements)
    for (std::int64_t begin = 0; begin < size; begin += block) {
        T* const first = values + begin;
        const std::int64_t count = size - begin < block ? size - begin : block;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) activate_one<A>(first + i);
    }
}

template <class T>
void activate(Activation activation, T* values, std::int64_t size) {
    if (activation == Activation::linear) return;
    with_constant(activation, [=]<Activation A>() { activate_all<A>(values, size); });
}

template <Activation A, class T>
void gradient_of(const T* outputs, T* deltas, std::int64_t rows, std::int64_t columns, float* bias_gradients) {
    const Stripes stripes(columns);
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (std::int64_t s = 0; s < stripes.count; ++s) {
        const std::int64_t first = stripes.first(s), width = stripes.width(s);
        float total[Stripes::columns_each] = {};
        for (std::int64_t block = 0; block < rows; block += Stripes::rows_each) {
            const std::int64_t end = block + Stripes::rows_each < rows ? block + Stripes::rows_each : rows;
            float sum[Stripes::columns_each] = {};
            for (std::int64_t b = block; b < end; ++b) {
                const T* y = outputs + b * columns + first;
                T* delta = deltas + b * columns + first;
                for_columns(width, [&](std::int64_t n) {
                    float d = load(delta + n);
                    if constexpr (A != Activation::linear) {
                        d *= slope<A>(load(y + n));
                        store(delta + n, d);
                    }
                    sum[n] += d;
                });
            }
#pragma omp simd
            for (std::int64_t n = 0; n < width; ++n) total[n] += sum[n];
        }
        if (bias_gradients)
            for (std::int64_t n = 0; n < width; ++n) bias_gradients[first + n] = total[n];
    }
}

template <class T>
void gradient(Activation activation, const T* outputs, T* deltas, std::int64_t rows, std::int64_t columns,
              float* bias_gradients) {
    if (activation == Activation::linear && !bias_gradients) return;
    with_constant(activation, [&]<Activation A>() { gradient_of<A>(outputs, deltas, rows, columns, bias_gradients); });
}

}  // namespace

template <>
const ActivationTable<float>& table<PYDDL_LEVEL, ActivationTable<float>>() {
    static constexpr ActivationTable<float> t{activate<float>, gradient<float>};
    return t;
}

template <>
const ActivationTable<Bfloat16>& table<PYDDL_LEVEL, ActivationTable<Bfloat16>>() {
    static constexpr ActivationTable<Bfloat16> t{activate<Bfloat16>, gradient<Bfloat16>};
    return t;
}

}  // namespace pyddl::kernels
