// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/rbm_loops.hpp"

#include "kernels/row_loops.hpp"
#include "kernels/simd.hpp"
#include "kernels/simd_math.hpp"
#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using std::int64_t;

void column_sums(const float* x, int64_t rows, int64_t columns, float* sums) {
    sum_columns(rows, columns, sums, [=](int64_t at, int64_t) { return x[at]; });
}

void scaled_sigmoid(float* x, int64_t rows, int64_t columns, bool given, float factor, float* sums) {
    if (given) {
        sum_columns(rows, columns, sums, [=](int64_t at, int64_t) {
            const float p = x[at];
            x[at] = factor * p;
            return p;
        });
        return;
    }
    sum_columns(rows, columns, sums, [=](int64_t at, int64_t) {
        const float p = sigmoid(x[at]);
        x[at] = factor * p;
        return p;
    });
}

void subtract_slope(float* x, int64_t rows, int64_t columns, const float* slopes, float* sums) {
    sum_columns(rows, columns, sums, [=](int64_t at, int64_t n) {
        const float p = x[at];
        return x[at] = p - slopes[n] * (p * (1.0f - p));
    });
}

void gaussian(float* x, const float* normal, int64_t rows, int64_t columns, const float* deviation,
              const float* precision) {
    for_rows(rows, columns, [=](int64_t b) {
        float* const row = x + b * columns;
        const float* const z = normal + b * columns;
#pragma omp simd
        for (int64_t n = 0; n < columns; ++n) row[n] = (row[n] + z[n] * deviation[n]) * precision[n];
    });
}

void scale_columns(float* x, int64_t rows, int64_t columns, const float* factors) {
    for_rows(rows, columns, [=](int64_t b) {
        float* const row = x + b * columns;
#pragma omp simd
        for (int64_t n = 0; n < columns; ++n) row[n] *= factors[n];
    });
}

void tempered(float* x, int64_t rows, int64_t columns, float beta, const float* shift) {
    for_rows(rows, columns, [=](int64_t b) {
        float* const row = x + b * columns;
#pragma omp simd
        for (int64_t n = 0; n < columns; ++n) row[n] = beta * row[n] + shift[n];
    });
}

void row_softplus(const float* x, int64_t rows, int64_t columns, float beta, double* out) {
    // The sum of log(1 + exp(-|y|)) is the logarithm of a product of numbers in (1, 2]: 112 of them fit into a float,
    // and nine times as many into a double, before a logarithm is taken.
    constexpr int64_t most = 112;
    for_rows(rows, columns, [=](int64_t b) {
        const float* const row = x + b * columns;
        double total = 0, product = 1;
        for (int64_t begin = 0, blocks = 0; begin < columns; begin += most) {
            const int64_t end = begin + most < columns ? begin + most : columns;
            float sum = 0, factor = 1;
#pragma omp simd reduction(+ : sum) reduction(* : factor)
            for (int64_t n = begin; n < end; ++n) {
                const float y = beta * row[n];
                sum += y < 0.0f ? 0.0f : y;
                factor *= 1.0f + exp_of_negative(-__builtin_fabsf(y));
            }
            total += static_cast<double>(sum);
            product *= static_cast<double>(factor);
            if (++blocks % 9 == 0) {
                total += __builtin_log(product);
                product = 1;
            }
        }
        out[b] = total + __builtin_log(product);
    });
}

void dot_rows(const float* x, int64_t rows, int64_t columns, const float* w, double* out) {
    for_rows(rows, columns, [=](int64_t b) {
        const float* const row = x + b * columns;
        out[b] = sum_row(columns, [=](int64_t n) { return row[n] * w[n]; });
    });
}

void dot_pairs(const float* x, const float* y, int64_t rows, int64_t columns, double* out) {
    for_rows(rows, columns, [=](int64_t b) {
        const float *const a = x + b * columns, *const c = y + b * columns;
        out[b] = sum_row(columns, [=](int64_t n) { return a[n] * c[n]; });
    });
}

void subtract_combination(const float* x, int64_t rows, int64_t columns, const float* factors, float* out) {
    const Stripes stripes(columns);
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        float total[Stripes::columns_each] = {};
        for (int64_t b = 0; b < rows; ++b) {
            const float* const row = x + b * columns + first;
            const float factor = factors[b];
            for_columns(width, [&](int64_t n) { total[n] += factor * row[n]; });
        }
        for (int64_t n = 0; n < width; ++n) out[first + n] -= total[n];
    }
}

void add_squares(const float* x, const float* factors, int64_t rows, int64_t columns, const float* centre, float scale,
                 float* sums) {
    const Stripes stripes(columns);
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        float total[Stripes::columns_each] = {};
        for (int64_t b = 0; b < rows; ++b) {
            const float* const row = x + b * columns + first;
            for_columns(width, [&](int64_t n) {
                const float off = row[n] * factors[first + n] - centre[first + n];
                total[n] += off * off;
            });
        }
        for (int64_t n = 0; n < width; ++n) sums[first + n] += scale * total[n];
    }
}

void conditional_loss(const float* v, const float* x, const float* w, const float* b, const float* place, int64_t count,
                      int64_t R, int64_t V, int64_t H, double* out) {
    for_rows(R, count * H, [=](int64_t r) {
        const float* const row = x + r * H;
        double total = 0;
        for (int64_t k = 0; k < count; ++k) {
            const double at = (static_cast<double>(place[r]) + static_cast<double>(k)) * static_cast<double>(V) /
                              static_cast<double>(count);
            int64_t i = static_cast<int64_t>(at);
            i = i < V ? i : V - 1;
            const float on = v[r * V + i];
            const float* const weights = w + i * H;
            // Of log p(v_i = 1) / p(v_i = 0), all others given.
            const double odds =
                static_cast<double>(b[i]) + sum_row(H, [=](int64_t j) {
                    return softplus(row[j] + (1.0f - on) * weights[j]) - softplus(row[j] - on * weights[j]);
                });
            const double magnitude = odds < 0 ? -odds : odds;
            total +=
                (odds < 0 ? 0.0 : odds) + __builtin_log1p(__builtin_exp(-magnitude)) - static_cast<double>(on) * odds;
        }
        out[r] = total * static_cast<double>(V) / static_cast<double>(count);
    });
}

double terms(Term term, const float* y, const float* t, const float* half_precision, int64_t n) {
    if (term == Term::softplus) return sum_row(n, [=](int64_t i) { return softplus(y[i] + t[i]); });
    return sum_row(n, [=](int64_t i) { return half_precision[i] * ((y[i] + t[i]) * (y[i] + t[i])); });
}

}  // namespace

template <>
const RbmTable& table<PYDDL_LEVEL, RbmTable>() {
    static constexpr RbmTable t{column_sums, scaled_sigmoid,   subtract_slope, gaussian,  scale_columns,
                                tempered,    row_softplus,     dot_rows,       dot_pairs, subtract_combination,
                                add_squares, conditional_loss, terms};
    return t;
}

}  // namespace pyddl::kernels
