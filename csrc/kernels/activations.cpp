// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/activations.hpp"

#include "kernels/simd.hpp"
#include "kernels/slopes.hpp"
#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

void activate(Activation activation, float* values, std::int64_t size) {
    if (activation == Activation::relu) {
#pragma omp parallel for simd schedule(static) if (size >= parallel_elements)
        for (std::int64_t i = 0; i < size; ++i) values[i] = values[i] < 0.0f ? 0.0f : values[i];
    } else if (activation == Activation::softplus) {
#pragma omp parallel for simd schedule(static) if (size >= parallel_elements)
        for (std::int64_t i = 0; i < size; ++i) values[i] = softplus(values[i]);
    }
}

template <Activation A>
void gradient_of(const float* outputs, float* deltas, std::int64_t rows, std::int64_t columns,
                 float* bias_gradients) {
    const Stripes stripes(columns);
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (std::int64_t s = 0; s < stripes.count; ++s) {
        const std::int64_t first = stripes.first(s), width = stripes.width(s);
        float total[Stripes::columns_each] = {};
        for (std::int64_t block = 0; block < rows; block += Stripes::rows_each) {
            const std::int64_t end = block + Stripes::rows_each < rows ? block + Stripes::rows_each : rows;
            float sum[Stripes::columns_each] = {};
            for (std::int64_t b = block; b < end; ++b) {
                const float* y = outputs + b * columns + first;
                float* delta = deltas + b * columns + first;
#pragma omp simd
                for (std::int64_t n = 0; n < width; ++n) {
                    const float d = A == Activation::linear ? delta[n] : delta[n] * slope<A>(y[n]);
                    if constexpr (A != Activation::linear) delta[n] = d;
                    sum[n] += d;
                }
            }
#pragma omp simd
            for (std::int64_t n = 0; n < width; ++n) total[n] += sum[n];
        }
        if (bias_gradients)
            for (std::int64_t n = 0; n < width; ++n) bias_gradients[first + n] = total[n];
    }
}

void gradient(Activation activation, const float* outputs, float* deltas, std::int64_t rows,
              std::int64_t columns, float* bias_gradients) {
    if (activation == Activation::linear && !bias_gradients) return;
    with_constant(activation,
                  [&]<Activation A>() { gradient_of<A>(outputs, deltas, rows, columns, bias_gradients); });
}

}  // namespace

template <>
const ActivationTable& table<PYDDL_LEVEL, ActivationTable>() {
    static constexpr ActivationTable t{activate, gradient};
    return t;
}

}  // namespace pyddl::kernels
