// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/losses.hpp"

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/slopes.hpp"
#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

constexpr std::int64_t most_groups = 64;

/// Loss of one element, and the derivative with respect to the output.
struct Term {
    float loss, derivative;
};

template <Loss L>
[[gnu::always_inline]] inline Term term(float y, float t) {
    if constexpr (L == Loss::squared_error) {
        const float difference = y - t;
        return {difference * difference, 2.0f * difference};
    } else {
        // One exponential serves both: with e = exp(-|z|), sigmoid(z) = 1 / (1 + e) or e / (1 + e).
        const float e = exp_of_negative(-__builtin_fabsf(y));
        const float reciprocal = 1.0f / (1.0f + e);
        const float mean = y < 0.0f ? e * reciprocal : reciprocal;
        return {(y < 0.0f ? 0.0f : y) - t * y + log1p_of_unit(e), mean - t};
    }
}

/// Sums of `Count` quantities over all elements. `body(i, sums)` handles one row of one stripe: i is the
/// offset of its first element, sums[q][n] what column n of the stripe has gathered of quantity q in this
/// block of rows. `finish(s)` is called after the last block of stripe s.
template <int Count, class Body, class Finish>
[[gnu::always_inline]] inline void sum_stripes(std::int64_t rows, std::int64_t columns, double (&totals)[Count],
                                               Body body, Finish finish) {
    const Stripes stripes(columns);
    const std::int64_t groups = stripes.count < most_groups ? stripes.count : most_groups;
    double partial[most_groups][Count] = {};
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (std::int64_t g = 0; g < groups; ++g) {
        for (std::int64_t s = g; s < stripes.count; s += groups) {
            const std::int64_t first = stripes.first(s), width = stripes.width(s);
            float bias[Stripes::columns_each] = {};
            for (std::int64_t block = 0; block < rows; block += Stripes::rows_each) {
                const std::int64_t end = block + Stripes::rows_each < rows ? block + Stripes::rows_each : rows;
                float sums[Count + 1][Stripes::columns_each] = {};
                for (std::int64_t b = block; b < end; ++b) body(b * columns + first, width, sums);
                for (int q = 0; q < Count; ++q)
                    for (std::int64_t n = 0; n < width; ++n) partial[g][q] += sums[q][n];
#pragma omp simd
                for (std::int64_t n = 0; n < width; ++n) bias[n] += sums[Count][n];
            }
            finish(first, width, bias);
        }
    }
    for (int q = 0; q < Count; ++q) {
        totals[q] = 0;
        for (std::int64_t g = 0; g < groups; ++g) totals[q] += partial[g][q];
    }
}

template <Loss L, Activation A, class T>
double gradient_of(const float* outputs, const float* targets, T* deltas, std::int64_t rows, std::int64_t columns,
                   float* bias_gradients) {
    double totals[1];
    sum_stripes<1>(
        rows, columns, totals,
        [=](std::int64_t i, std::int64_t width, float (&sums)[2][Stripes::columns_each]) {
            const float *y = outputs + i, *t = targets + i;
            T* delta = deltas + i;
            for_columns(width, [&](std::int64_t n) {
                const float output = y[n];
                const Term v = term<L>(output, t[n]);
                const float d = A == Activation::linear ? v.derivative : v.derivative * slope<A>(output);
                store(delta + n, d);
                sums[0][n] += v.loss;
                sums[1][n] += d;
            });
        },
        [=](std::int64_t first, std::int64_t width, const float* bias) {
            if (bias_gradients)
                for (std::int64_t n = 0; n < width; ++n) bias_gradients[first + n] = bias[n];
        });
    return totals[0];
}

template <class T>
double gradient(Loss loss, Activation activation, const float* outputs, const float* targets, T* deltas,
                std::int64_t rows, std::int64_t columns, float* bias_gradients) {
    if (loss == Loss::cross_entropy)  // the outputs are logits
        return gradient_of<Loss::cross_entropy, Activation::linear>(outputs, targets, deltas, rows, columns,
                                                                    bias_gradients);
    return with_constant(activation, [&]<Activation A>() {
        return gradient_of<Loss::squared_error, A>(outputs, targets, deltas, rows, columns, bias_gradients);
    });
}

template <Loss L>
LossSums evaluate_of(const float* outputs, const float* targets, std::int64_t rows, std::int64_t columns) {
    double totals[2];
    sum_stripes<2>(
        rows, columns, totals,
        [=](std::int64_t i, std::int64_t width, float (&sums)[3][Stripes::columns_each]) {
            const float *y = outputs + i, *t = targets + i;
            for_columns(width, [&](std::int64_t n) {
                const Term v = term<L>(y[n], t[n]);
                sums[0][n] += v.loss;
                sums[1][n] += v.derivative * v.derivative;
            });
        },
        [](std::int64_t, std::int64_t, const float*) {});
    return {totals[0], L == Loss::squared_error ? totals[0] : totals[1]};
}

LossSums evaluate(Loss loss, const float* outputs, const float* targets, std::int64_t rows, std::int64_t columns) {
    return loss == Loss::cross_entropy ? evaluate_of<Loss::cross_entropy>(outputs, targets, rows, columns)
                                       : evaluate_of<Loss::squared_error>(outputs, targets, rows, columns);
}

constexpr std::int64_t block_columns = 256;  // added in float, before the sum in double

template <Loss L>
void of_rows(const float* outputs, const float* targets, double* out, std::int64_t rows, std::int64_t samples,
             std::int64_t columns) {
#pragma omp parallel for schedule(static) if (rows * samples * columns >= parallel_elements)
    for (std::int64_t r = 0; r < rows * samples; ++r) {
        const float *y = outputs + r * columns, *t = targets + r / samples * columns;
        double total = 0;
        for (std::int64_t block = 0; block < columns; block += block_columns) {
            const std::int64_t end = block + block_columns < columns ? block + block_columns : columns;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (std::int64_t n = block; n < end; ++n) sum += term<L>(y[n], t[n]).loss;
            total += sum;
        }
        out[r] = total;
    }
}

void losses_of_rows(Loss loss, const float* outputs, const float* targets, double* out, std::int64_t rows,
                    std::int64_t samples, std::int64_t columns) {
    if (loss == Loss::cross_entropy)
        of_rows<Loss::cross_entropy>(outputs, targets, out, rows, samples, columns);
    else
        of_rows<Loss::squared_error>(outputs, targets, out, rows, samples, columns);
}

// ---- softmax

constexpr std::int64_t block_rows = 128;  // whose sums fit on the stack

/// What a row's probabilities need: exp(z - largest) * reciprocal.
struct RowSums {
    float largest, reciprocal;
    double loss;
};

RowSums row_sums(const float* z, std::int64_t columns, std::int64_t label) {
    float largest = -__builtin_inff();
#pragma omp simd reduction(max : largest)
    for (std::int64_t n = 0; n < columns; ++n) largest = z[n] > largest ? z[n] : largest;
    // The largest ones count 1 each, apart from the others, so that log1p keeps what these add. NaN is in the sum.
    float others = 0, ties = 0;
#pragma omp simd reduction(+ : others, ties)
    for (std::int64_t n = 0; n < columns; ++n) {
        const float e = exp_of_negative(z[n] - largest);
        others += z[n] == largest ? 0.0f : e;
        ties += z[n] == largest ? 1.0f : 0.0f;
    }
    const double rest = static_cast<double>(others) + (static_cast<double>(ties) - 1.0);
    return {largest, static_cast<float>(1.0 / (1.0 + rest)),
            __builtin_log1p(rest) + (static_cast<double>(largest) - static_cast<double>(z[label]))};
}

template <class T>
double softmax_gradient(const float* logits, const std::int64_t* labels, T* deltas, std::int64_t rows,
                        std::int64_t columns, float* bias_gradients) {
    const Stripes stripes(columns);
    double total = 0;
    if (bias_gradients)
        for (std::int64_t n = 0; n < columns; ++n) bias_gradients[n] = 0;
    // First what runs along rows, then what runs along columns, so that threads share out rows, then stripes.
    for (std::int64_t block = 0; block < rows; block += block_rows) {
        const std::int64_t count = rows - block < block_rows ? rows - block : block_rows;
        RowSums of_rows[block_rows];
        RowSums* const sums = of_rows;
        const bool large = count * columns >= parallel_elements;
#pragma omp parallel for schedule(static) if (large)
        for (std::int64_t b = 0; b < count; ++b)
            sums[b] = row_sums(logits + (block + b) * columns, columns, labels[block + b]);
        for (std::int64_t b = 0; b < count; ++b) total += sums[b].loss;
#pragma omp parallel for schedule(static) if (large)
        for (std::int64_t s = 0; s < stripes.count; ++s) {
            const std::int64_t first = stripes.first(s), width = stripes.width(s);
            for (std::int64_t part = 0; part < count; part += Stripes::rows_each) {
                const std::int64_t end = part + Stripes::rows_each < count ? part + Stripes::rows_each : count;
                float sum[Stripes::columns_each] = {};
                for (std::int64_t b = part; b < end; ++b) {
                    const float* z = logits + (block + b) * columns + first;
                    T* delta = deltas + (block + b) * columns + first;
                    const RowSums row = sums[b];
                    const auto label = static_cast<std::int32_t>(labels[block + b] - first);
                    for_columns(width, [&](std::int64_t n) {
                        const float p = exp_of_negative(z[n] - row.largest) * row.reciprocal;
                        const float d = p - (static_cast<std::int32_t>(n) == label ? 1.0f : 0.0f);
                        store(delta + n, d);
                        sum[n] += d;
                    });
                }
                if (bias_gradients)
                    for (std::int64_t n = 0; n < width; ++n) bias_gradients[first + n] += sum[n];
            }
        }
    }
    return total;
}

/// Whether the label's logit is above those before it, and not below those after it.
bool is_first_largest(const float* z, std::int64_t columns, std::int64_t label) {
    const float own = z[label];
    std::int32_t above = 0;
#pragma omp simd reduction(+ : above)
    for (std::int64_t n = 0; n < label; ++n) above += own > z[n] ? 0 : 1;
#pragma omp simd reduction(+ : above)
    for (std::int64_t n = label; n < columns; ++n) above += own >= z[n] ? 0 : 1;
    return above == 0;
}

LossSums softmax_evaluate(const float* logits, const std::int64_t* labels, std::int64_t rows, std::int64_t columns) {
    LossSums total;
    for (std::int64_t block = 0; block < rows; block += block_rows) {
        const std::int64_t count = rows - block < block_rows ? rows - block : block_rows;
        double of_rows[block_rows];
        bool right_rows[block_rows];
        double* const losses = of_rows;
        bool* const right = right_rows;
#pragma omp parallel for schedule(static) if (count * columns >= parallel_elements)
        for (std::int64_t b = 0; b < count; ++b) {
            const float* z = logits + (block + b) * columns;
            losses[b] = row_sums(z, columns, labels[block + b]).loss;
            right[b] = is_first_largest(z, columns, labels[block + b]);
        }
        for (std::int64_t b = 0; b < count; ++b) {
            total.loss += losses[b];
            total.accuracy += right[b] ? 1.0 : 0.0;
        }
    }
    return total;
}

}  // namespace

template <>
const LossTable<float>& table<PYDDL_LEVEL, LossTable<float>>() {
    static constexpr LossTable<float> t{gradient<float>, evaluate, losses_of_rows, softmax_gradient<float>,
                                        softmax_evaluate};
    return t;
}

template <>
const LossTable<Bfloat16>& table<PYDDL_LEVEL, LossTable<Bfloat16>>() {
    static constexpr LossTable<Bfloat16> t{gradient<Bfloat16>, evaluate, losses_of_rows, softmax_gradient<Bfloat16>,
                                           softmax_evaluate};
    return t;
}

}  // namespace pyddl::kernels
