// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/layers/normalisation_loops.hpp"

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/stripes.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using std::int64_t;

constexpr int64_t each = Stripes::rows_each, wide = Stripes::columns_each;

template <class In>
void statistics(const In* x, int64_t R, int64_t C, double* mean, double* squares) {
    const Stripes stripes(C);
#pragma omp parallel for schedule(static) if (R * C >= parallel_elements)
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        double m[wide] = {}, q[wide] = {};
        for (int64_t block = 0; block < R; block += each) {
            const int64_t end = block + each < R ? block + each : R;
            const float share = 1.0f / static_cast<float>(end - block);
            float sum[wide] = {}, about[wide] = {};
            for (int64_t r = block; r < end; ++r) {
                const In* row = x + r * C + first;
                for_columns(width, [&](int64_t n) { sum[n] += load(row + n); });
            }
            for_columns(width, [&](int64_t n) { sum[n] *= share; });
            for (int64_t r = block; r < end; ++r) {
                const In* row = x + r * C + first;
                for_columns(width, [&](int64_t n) {
                    const float d = load(row + n) - sum[n];
                    about[n] += d * d;
                });
            }
            const double own = static_cast<double>(end - block), all = static_cast<double>(end);
            const double part = own / all, joined = static_cast<double>(block) * part;
            for (int64_t n = 0; n < width; ++n) {
                const double d = sum[n] - m[n];
                m[n] += d * part;
                q[n] += about[n] + d * d * joined;
            }
        }
        for (int64_t n = 0; n < width; ++n) {
            mean[first + n] = m[n];
            squares[first + n] = q[n];
        }
    }
}

template <class In, class Out>
void normalise(const In* x, Out* y, int64_t R, int64_t C, const float* mean, const float* scale, const float* shift,
               bool relu) {
    const auto run = [=]<bool Relu>() {
#pragma omp parallel for schedule(static) if (R * C >= parallel_elements)
        for (int64_t r = 0; r < R; ++r) {
            const In* from = x + r * C;
            Out* to = y + r * C;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                const float v = (load(from + c) - mean[c]) * scale[c] + shift[c];
                store(to + c, Relu && v < 0.0f ? 0.0f : v);
            }
        }
    };
    relu ? run.template operator()<true>() : run.template operator()<false>();
}

template <class In>
void moments(const In* x, const In* delta, int64_t R, int64_t C, const float* mean, double* sums, double* products) {
    const Stripes stripes(C);
#pragma omp parallel for schedule(static) if (R * C >= parallel_elements)
    for (int64_t s = 0; s < stripes.count; ++s) {
        const int64_t first = stripes.first(s), width = stripes.width(s);
        double all[wide] = {}, both[wide] = {};
        for (int64_t block = 0; block < R; block += each) {
            const int64_t end = block + each < R ? block + each : R;
            float sum[wide] = {}, product[wide] = {};
            for (int64_t r = block; r < end; ++r) {
                const In *row = x + r * C + first, *d = delta + r * C + first;
                for_columns(width, [&](int64_t n) {
                    const float v = load(d + n);
                    sum[n] += v;
                    product[n] += v * (load(row + n) - mean[first + n]);
                });
            }
            for (int64_t n = 0; n < width; ++n) {
                all[n] += sum[n];
                both[n] += product[n];
            }
        }
        for (int64_t n = 0; n < width; ++n) {
            sums[first + n] = all[n];
            products[first + n] = both[n];
        }
    }
}

template <class In, class Out>
void combine(const In* x, const In* delta, Out* below, int64_t R, int64_t C, const float* mean, const float* a,
             const float* b, const float* c) {
#pragma omp parallel for schedule(static) if (R * C >= parallel_elements)
    for (int64_t r = 0; r < R; ++r) {
        const In *row = x + r * C, *d = delta + r * C;
        Out* to = below + r * C;
#pragma omp simd
        for (int64_t n = 0; n < C; ++n) store(to + n, a[n] * load(d + n) + b[n] * (load(row + n) - mean[n]) + c[n]);
    }
}

template <class In, class Out>
void normalise_rows(const In* x, Out* y, int64_t B, int64_t P, int64_t C, const float* scale, const float* shift,
                    float epsilon, float* of_rows) {
    const int64_t N = P * C;
#pragma omp parallel for schedule(static) if (B * N >= parallel_elements)
    for (int64_t b = 0; b < B; ++b) {
        const In* row = x + b * N;
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < N; ++i) sum += load(row + i);
        const float mean = static_cast<float>(sum / static_cast<double>(N));
        for (int64_t i = 0; i < N; ++i) {
            const double d = load(row + i) - mean;
            squares += d * d;
        }
        const float r = 1.0f / __builtin_sqrtf(static_cast<float>(squares / static_cast<double>(N)) + epsilon);
        of_rows[2 * b] = mean;
        of_rows[2 * b + 1] = r;
        for (int64_t p = 0; p < P; ++p)
#pragma omp simd
            for (int64_t c = 0; c < C; ++c)
                store(y + b * N + p * C + c, (load(row + p * C + c) - mean) * r * scale[c] + shift[c]);
    }
}

template <class In, class Out>
void rows_backward(const In* x, const In* delta, Out* below, int64_t B, int64_t P, int64_t C, const float* scale,
                   const float* of_rows, double* scale_sums) {
    const int64_t N = P * C;
    if (scale_sums) {
        const Stripes stripes(C);
#pragma omp parallel for schedule(static) if (B * N >= parallel_elements)
        for (int64_t s = 0; s < stripes.count; ++s) {
            const int64_t first = stripes.first(s), width = stripes.width(s);
            double all[wide] = {};
            for (int64_t b = 0; b < B; ++b) {
                const float mean = of_rows[2 * b], r = of_rows[2 * b + 1];
                float sum[wide] = {};
                for (int64_t p = 0; p < P; ++p) {
                    const In *row = x + b * N + p * C + first, *d = delta + b * N + p * C + first;
                    for_columns(width, [&](int64_t n) { sum[n] += load(d + n) * (load(row + n) - mean); });
                }
                for (int64_t n = 0; n < width; ++n) all[n] += static_cast<double>(sum[n]) * r;
            }
            for (int64_t n = 0; n < width; ++n) scale_sums[first + n] = all[n];
        }
    }
    if (!below) return;
#pragma omp parallel for schedule(static) if (B * N >= parallel_elements)
    for (int64_t b = 0; b < B; ++b) {
        const In *row = x + b * N, *d = delta + b * N;
        const float mean = of_rows[2 * b], r = of_rows[2 * b + 1];
        double sum = 0, product = 0;
        for (int64_t p = 0; p < P; ++p)
            for (int64_t c = 0; c < C; ++c) {
                const float v = load(d + p * C + c) * scale[c];
                sum += v;
                product += v * (load(row + p * C + c) - mean) * r;
            }
        const float m = static_cast<float>(sum / static_cast<double>(N));
        const float q = static_cast<float>(product / static_cast<double>(N)) * r;
        for (int64_t p = 0; p < P; ++p)
#pragma omp simd
            for (int64_t c = 0; c < C; ++c)
                store(below + b * N + p * C + c,
                      r * (load(d + p * C + c) * scale[c] - m - (load(row + p * C + c) - mean) * q));
    }
}

template <class In, class Out>
constexpr NormalisationTable<In, Out> made = {statistics<In>,   normalise<In, Out>,      moments<In>,
                                              combine<In, Out>, normalise_rows<In, Out>, rows_backward<In, Out>};

}  // namespace

template <>
const NormalisationTable<float, float>& table<PYDDL_LEVEL, NormalisationTable<float, float>>() {
    return made<float, float>;
}
template <>
const NormalisationTable<Bfloat16, Bfloat16>& table<PYDDL_LEVEL, NormalisationTable<Bfloat16, Bfloat16>>() {
    return made<Bfloat16, Bfloat16>;
}
template <>
const NormalisationTable<Bfloat16, float>& table<PYDDL_LEVEL, NormalisationTable<Bfloat16, float>>() {
    return made<Bfloat16, float>;
}

}  // namespace pyddl::kernels
