// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/ssrbm_loops.hpp"

#include "kernels/row_loops.hpp"
#include "kernels/simd.hpp"
#include "kernels/simd_math.hpp"
#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using std::int64_t;

/// exp(x), up to 2^126.
[[gnu::always_inline]] inline float exponential(float x) {
    const float e = exp_of_negative(-__builtin_fabsf(x));
    return x > 0.0f ? 1.0f / e : e;
}

void standardise(const float* v, const float* mean, float factor, int64_t rows, int64_t V, float* out) {
    for_rows(rows, V, [=](int64_t r) {
        const float* const from = v + r * V;
        float* const to = out + r * V;
#pragma omp simd
        for (int64_t n = 0; n < V; ++n) to[n] = (from[n] - mean[n]) * factor;
    });
}

void restore(const float* u, const float* mean, float factor, int64_t rows, int64_t V, float* out) {
    for_rows(rows, V, [=](int64_t r) {
        const float* const from = u + r * V;
        float* const to = out + r * V;
#pragma omp simd
        for (int64_t n = 0; n < V; ++n) to[n] = from[n] * factor + mean[n];
    });
}

void square(const float* x, int64_t n, float* out) {
#pragma omp parallel for simd schedule(static) if (n >= parallel_elements)
    for (int64_t i = 0; i < n; ++i) out[i] = x[i] * x[i];
}

void exponentials(const float* x, int64_t n, float* out) {
#pragma omp parallel for simd schedule(static) if (n >= parallel_elements)
    for (int64_t i = 0; i < n; ++i) out[i] = exponential(x[i]);
}

void row_squares(const float* u, int64_t rows, int64_t V, float* out) {
    for_rows(rows, V, [=](int64_t r) {
        const float* const row = u + r * V;
        out[r] = static_cast<float>(sum_row(V, [=](int64_t n) { return row[n] * row[n]; }));
    });
}

void column_squares(const float* u, int64_t rows, int64_t V, float factor, float* sums) {
    const Stripes stripes(V);
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        float total[Stripes::columns_each] = {};
        for (int64_t r = 0; r < rows; ++r) {
            const float* const row = u + r * V + first;
            for_columns(width, [&](int64_t n) { total[n] += row[n] * row[n]; });
        }
        for (int64_t n = 0; n < width; ++n) sums[first + n] += factor * total[n];
    }
}

void spike_inputs(const SpikeUnits& units, const float* y, const float* q, const float* squares, int64_t rows,
                  float* x) {
    const SpikeUnits t = units;
    for_rows(rows, t.H * t.K, [=](int64_t r) {
        float* const out = x + r * t.H;
        if (q) {
            const float* const row = q + r * t.H;
#pragma omp simd
            for (int64_t i = 0; i < t.H; ++i) out[i] = t.bias[i] - 0.5f * row[i];
        } else if (t.phi) {
            const float half = 0.5f * squares[r];
#pragma omp simd
            for (int64_t i = 0; i < t.H; ++i) out[i] = t.bias[i] - half * t.phi[i];
        } else {
            __builtin_memcpy(out, t.bias, static_cast<std::uint64_t>(t.H) * sizeof(float));
        }
        for (int64_t k = 0; k < t.K; ++k) {
            const float* const slab = y + (r * t.K + k) * t.H;
            const float *const mean = t.slab_mean + k * t.H, *const half = t.half_inverse + k * t.H;
#pragma omp simd
            for (int64_t i = 0; i < t.H; ++i) out[i] += slab[i] * (mean[i] + slab[i] * half[i]);
        }
    });
}

void slabs(const SpikeUnits& units, float* y, const float* h, const float* noise, int64_t stride, int64_t rows) {
    const SpikeUnits t = units;
    for_rows(rows, t.H * t.K, [=](int64_t r) {
        const float* const on = h + r * t.H;
        for (int64_t k = 0; k < t.K; ++k) {
            float* const slab = y + (r * t.K + k) * t.H;
            const float *const mean = t.slab_mean + k * t.H, *const half = t.half_inverse + k * t.H;
            if (noise) {
                const float *const z = noise + r * stride + k * t.H, *const deviation = t.deviation + k * t.H;
#pragma omp simd
                for (int64_t i = 0; i < t.H; ++i)
                    slab[i] = on[i] * (2.0f * half[i] * slab[i] + mean[i] + deviation[i] * z[i]);
            } else {
#pragma omp simd
                for (int64_t i = 0; i < t.H; ++i) slab[i] = on[i] * (2.0f * half[i] * slab[i] + mean[i]);
            }
        }
    });
}

/// A stripe's rows in blocks: add(r, sum) for each row of a block, whose sums of 64 columns are added up.
template <class Add>
[[gnu::always_inline]] inline void sum_blocks(int64_t rows, int64_t width, float* out, Add add) {
    float total[Stripes::columns_each] = {};
    for (int64_t block = 0; block < rows; block += Stripes::rows_each) {
        const int64_t end = block + Stripes::rows_each < rows ? block + Stripes::rows_each : rows;
        float sum[Stripes::columns_each] = {};
        for (int64_t r = block; r < end; ++r) add(r, sum);
        for_columns(width, [&](int64_t n) { total[n] += sum[n]; });
    }
    for (int64_t n = 0; n < width; ++n) out[n] = total[n];
}

void statistics(const SpikeUnits& units, float* y, float* x, int64_t rows, float factor, float* of_bias, float* of_mean,
                float* of_alpha) {
    const SpikeUnits t = units;
    const Stripes stripes(t.H);
#pragma omp parallel for schedule(static) if (rows * t.H * t.K >= parallel_elements)
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        sum_blocks(rows, width, of_bias + first, [=](int64_t r, float* sum) {
            float* const row = x + r * t.H + first;
            for_columns(width, [=](int64_t n) {
                const float fp = factor * sigmoid(row[n]);
                row[n] = fp;
                sum[n] += fp;
            });
        });
        for (int64_t k = 0; k < t.K; ++k) {
            const int64_t at = k * t.H + first;
            const float *const mean = t.slab_mean + at, *const half = t.half_inverse + at;
            sum_blocks(rows, width, of_alpha + at, [=](int64_t r, float* sum) {
                const float *const row = x + r * t.H + first, *const slab = y + r * t.K * t.H + at;
                for_columns(width, [=](int64_t n) { sum[n] += row[n] * (slab[n] * slab[n]) * half[n]; });
            });
            sum_blocks(rows, width, of_mean + at, [=](int64_t r, float* sum) {
                const float* const row = x + r * t.H + first;
                float* const slab = y + r * t.K * t.H + at;
                for_columns(width, [=](int64_t n) {
                    sum[n] += row[n] * slab[n];
                    slab[n] = row[n] * (2.0f * half[n] * slab[n] + mean[n]);
                });
            });
        }
    }
}

void precisions(const float* lambda, const double* shift, int64_t rows, int64_t V, float* precision) {
    for_rows(rows, V, [=](int64_t r) {
        float* const row = precision + r * V;
        const float more = static_cast<float>(shift[r]);
#pragma omp simd
        for (int64_t n = 0; n < V; ++n) row[n] = lambda[n] + more;
    });
}

void settle(float* m, float* precision, int64_t rows, int64_t V) {
    for_rows(rows, V, [=](int64_t r) {
        float *const row = m + r * V, *const of_row = precision + r * V;
#pragma omp simd
        for (int64_t n = 0; n < V; ++n) {
            const float p = of_row[n];
            row[n] /= p;
            of_row[n] = 1.0f / __builtin_sqrtf(p);
        }
    });
}

void propose(const float* mean, const float* deviation, int64_t deviation_stride, const float* noise, int64_t stride,
             int64_t rows, int64_t V, float* out, float* squares) {
    for_rows(rows, V, [=](int64_t r) {
        const float *const m = mean + r * V, *const d = deviation + r * deviation_stride, *const z = noise + r * stride;
        float* const to = out + r * V;
#pragma omp simd
        for (int64_t n = 0; n < V; ++n) to[n] = m[n] + d[n] * z[n];
        squares[r] = static_cast<float>(sum_row(V, [=](int64_t n) { return to[n] * to[n]; }));
    });
}

void quadratic(const float* u, const float* lambda, int64_t rows, int64_t V, double* out) {
    for_rows(rows, V, [=](int64_t r) {
        const float* const row = u + r * V;
        out[r] = 0.5 * sum_row(V, [=](int64_t n) { return lambda[n] * (row[n] * row[n]); });
    });
}

double unit_errors(const SpikeUnits& units, const float* u, const float* y, const float* x, const float* w,
                   const float* phi, const float* lambda, const float* place, int64_t count, int64_t rows, int64_t V) {
    const int64_t H = units.H, S = units.H * units.K;
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) {
        const float *const slab = y + r * S, *const spike = x + r * H;
        double error = 0;
        for (int64_t k = 0; k < count; ++k) {
            const double at = (static_cast<double>(place[r]) + static_cast<double>(k)) * static_cast<double>(V) /
                              static_cast<double>(count);
            int64_t d = static_cast<int64_t>(at);
            d = d < V ? d : V - 1;
            const float* const weights = w + d * S;
            const double mean = -sum_row(S, [=](int64_t s) { return slab[s] * weights[s]; });
            double precision = static_cast<double>(lambda[d]);
            if (const float* const each = units.phi ? units.phi : phi ? phi + d * H : nullptr)
                precision -= sum_row(H, [=](int64_t i) { return spike[i] * each[i]; });
            const double off = static_cast<double>(u[r * V + d]) - mean / precision;
            error += off * off;
        }
        total += error;
    }
    return total * static_cast<double>(V) / static_cast<double>(count);
}

void add_scaled_columns(const float* w, const float* factors, int64_t V, int64_t S, float* to) {
    for_rows(V, S, [=](int64_t d) {
        const float* const row = w + d * S;
        float* const out = to + d * S;
#pragma omp simd
        for (int64_t s = 0; s < S; ++s) out[s] += row[s] * factors[s];
    });
}

void weight_sums(const float* w, bool squared, int64_t V, int64_t S, float* sums) {
    if (squared)
        sum_columns(V, S, sums, [=](int64_t at, int64_t) { return w[at] * w[at]; });
    else
        sum_columns(V, S, sums, [=](int64_t at, int64_t) { return __builtin_fabsf(w[at]); });
}

void guarded(const SpikeUnits& units, const float* w, const float* sums, const float* log_phi, int64_t V, float* phi) {
    const SpikeUnits t = units;
    for_rows(V, t.H * (t.K + 1), [=](int64_t d) {
        float* const row = phi + d * t.H;
        const float* const logs = log_phi + d * t.H;
#pragma omp simd
        for (int64_t i = 0; i < t.H; ++i) row[i] = exponential(logs[i]);
        for (int64_t k = 0; k < t.K; ++k) {
            const float* const weights = w + (d * t.K + k) * t.H;
            const float *const sum = sums + k * t.H, *const half = t.half_inverse + k * t.H;
#pragma omp simd
            for (int64_t i = 0; i < t.H; ++i) row[i] += __builtin_fabsf(weights[i]) * sum[i] * (2.0f * half[i]);
        }
    });
}

void guarded_slopes(const SpikeUnits& units, const float* w, const float* sums, const float* log_phi, const float* g,
                    int64_t V, float* of_log_phi, float* of_w, float* along) {
    const SpikeUnits t = units;
    const int64_t S = t.H * t.K;
    const Stripes stripes(t.H);
#pragma omp parallel for schedule(static) if (V * S >= parallel_elements)
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        for (int64_t k = 0; k < t.K; ++k) {
            const int64_t of_slab = k * t.H + first;
            sum_blocks(V, width, along + of_slab, [=](int64_t d, float* sum) {
                const float *const slopes = g + d * t.H + first, *const weights = w + d * S + of_slab;
                for_columns(width, [=](int64_t n) { sum[n] += slopes[n] * __builtin_fabsf(weights[n]); });
            });
        }
    }
    for_rows(V, S, [=](int64_t d) {
        const float *const slopes = g + d * t.H, *const logs = log_phi + d * t.H;
        float* const out = of_log_phi + d * t.H;
#pragma omp simd
        for (int64_t i = 0; i < t.H; ++i) out[i] = slopes[i] * exponential(logs[i]);
        for (int64_t k = 0; k < t.K; ++k) {
            const int64_t of_slab = k * t.H;
            const float *const weights = w + d * S + of_slab, *const sum = sums + of_slab,
                               *const of_g = along + of_slab, *const half = t.half_inverse + of_slab;
            float* const to = of_w + d * S + of_slab;
#pragma omp simd
            for (int64_t i = 0; i < t.H; ++i) {
                const float slope = (slopes[i] * sum[i] + of_g[i]) * (2.0f * half[i]);
                to[i] += weights[i] < 0.0f ? -slope : weights[i] > 0.0f ? slope : 0.0f;
            }
        }
    });
}

}  // namespace

template <>
const SsrbmTable& table<PYDDL_LEVEL, SsrbmTable>() {
    static constexpr SsrbmTable t{standardise,    restore,      square,        exponentials, row_squares,
                                  column_squares, spike_inputs, slabs,         statistics,   precisions,
                                  settle,         propose,      quadratic,     unit_errors,  add_scaled_columns,
                                  weight_sums,    guarded,      guarded_slopes};
    return t;
}

}  // namespace pyddl::kernels
