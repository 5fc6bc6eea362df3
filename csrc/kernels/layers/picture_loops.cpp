// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/layers/picture_loops.hpp"

#include <omp.h>

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

using std::int64_t;

// Vectors are passed between functions that are all inlined: how they would be passed to others is of no concern.
#pragma GCC diagnostic ignored "-Wpsabi"

template <class T>
void zero(T* to, int64_t size) {
    __builtin_memset(to, 0, static_cast<std::uint64_t>(size) * sizeof(T));
}

template <class Out>
void add_bias(Out* values, int64_t rows, int64_t channels, const float* bias) {
#pragma omp parallel for schedule(static) if (rows * channels >= parallel_elements)
    for (int64_t r = 0; r < rows; ++r) {
        Out* row = values + r * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) store(row + c, load(row + c) + bias[c]);
    }
}

template <class In, class Out>
void transpose(const In* from, Out* to, int64_t B, int64_t rows, int64_t columns) {
    const int64_t size = rows * columns;
#pragma omp parallel for schedule(static) if (B * size >= parallel_elements)
    for (int64_t b = 0; b < B; ++b)
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c)
                store(to + b * size + c * rows + r, load(from + b * size + r * columns + c));
}

/// The places a of a window along one axis that see place y: from `place` on in steps of s, for outputs from `output`
/// down.
struct Seen {
    int64_t place, output;
    Seen(int64_t y, const Window& x) : place((y + x.p) % x.s), output((y + x.p) / x.s) {}
};

template <class Out>
void scatter(const float* products, Out* to, const Window& x) {
    const int64_t taps = x.k * x.C, each = x.k * taps;
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements / 8)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t y = 0; y < x.H; ++y) {
            const Seen rows(y, x);
            for (int64_t u = 0; u < x.W; ++u)
                for (int64_t c = 0; c < x.C; ++c) {
                    const Seen columns(u, x);
                    float sum = 0;
                    for (int64_t a = rows.place, i = rows.output; a < x.k && i >= 0; a += x.s, --i) {
                        if (i >= x.h) continue;
                        const float* row = products + (b * x.h + i) * x.w * each + a * taps + c;
                        for (int64_t v = columns.place, j = columns.output; v < x.k && j >= 0; v += x.s, --j)
                            if (j < x.w) sum += row[j * each + v * x.C];
                    }
                    store(to + ((b * x.H + y) * x.W + u) * x.C + c, sum);
                }
        }
}

template <class Out>
void gather(const float* products, Out* to, const Window& x) {
    const int64_t taps = x.k * x.C, each = x.k * taps;
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.h * x.w * x.C >= parallel_elements / 8)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t j = 0; j < x.w; ++j)
                for (int64_t c = 0; c < x.C; ++c) {
                    float sum = 0;
                    for (int64_t a = 0; a < x.k; ++a) {
                        const int64_t y = i + a - x.p;
                        if (y < 0 || y >= x.H) continue;
                        const float* row = products + (b * x.H + y) * x.W * each + a * taps + c;
                        const int64_t first = x.p > j ? x.p - j : 0, most = x.W + x.p - j;
                        for (int64_t v = first; v < x.k && v < most; ++v) sum += row[(j + v - x.p) * each + v * x.C];
                    }
                    store(to + ((b * x.h + i) * x.w + j) * x.C + c, sum);
                }
}

template <class In>
void spread(const In* from, In* to, const Window& x) {
    const int64_t taps = x.k * x.C, each = x.k * taps;
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements / 8)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t y = 0; y < x.H; ++y)
            for (int64_t u = 0; u < x.W; ++u) {
                In* at = to + ((b * x.H + y) * x.W + u) * each;
                for (int64_t a = 0; a < x.k; ++a)
                    for (int64_t v = 0; v < x.k; ++v) {
                        const int64_t i = y - a + x.p, j = u - v + x.p;
                        const bool inside = i >= 0 && i < x.h && j >= 0 && j < x.w;
                        for (int64_t c = 0; c < x.C; ++c)
                            at[(a * x.k + v) * x.C + c] = inside ? from[((b * x.h + i) * x.w + j) * x.C + c] : In{};
                    }
            }
}

// ---- pooling

typedef float Lanes __attribute__((vector_size(4 * line)));
typedef std::int32_t Places __attribute__((vector_size(4 * line)));

/// Of a line of channels, written out as vectors: branches would be guessed wrong every other time.
template <class In, class Out>
[[gnu::always_inline]] inline void largest_of_four(const In* const (&of)[4], Out* to, std::uint8_t* place, int64_t n) {
    float values[4][line] = {};
    for (int q = 0; q < 4; ++q)
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) values[q][i] = load(of[q] + i);
    Lanes v[4];
    __builtin_memcpy(v, values, sizeof v);
    Lanes best = v[0];
    for (int q = 1; q < 4; ++q) best = (v[q] > best) | (v[q] != v[q]) ? v[q] : best;
    Places bits, which = Places{} + 3;
    __builtin_memcpy(&bits, &best, sizeof bits);
    for (int q = 2; q >= 0; --q) {  // the first that has the bits of the largest, or of NaN
        Places own;
        __builtin_memcpy(&own, v + q, sizeof own);
        which = own == bits ? Places{} + q : which;
    }
    float largest[line];
    std::int32_t places[line];
    __builtin_memcpy(largest, &best, sizeof largest);
    __builtin_memcpy(places, &which, sizeof places);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(to + i, largest[i]);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) place[i] = static_cast<std::uint8_t>(places[i]);
}

template <class In, class Out>
void largest(const In* from, Out* to, std::uint8_t* place, const Window& x) {
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t j = 0; j < x.w; ++j) {
                const In* first = from + ((b * x.H + i * x.k) * x.W + j * x.k) * x.C;
                const int64_t at = ((b * x.h + i) * x.w + j) * x.C;
                if (x.k == 2) {
                    for (int64_t c = 0; c < x.C; c += line) {
                        const In* const of[4] = {first + c, first + x.C + c, first + x.W * x.C + c,
                                                 first + (x.W + 1) * x.C + c};
                        if (c + line <= x.C)
                            largest_of_four(of, to + at + c, place + at + c, line);
                        else
                            largest_of_four(of, to + at + c, place + at + c, x.C - c);
                    }
                    continue;
                }
                for (int64_t c = 0; c < x.C; ++c) {
                    float best = load(first + c);
                    int which = 0;
                    for (int64_t q = 1; q < x.k * x.k; ++q) {
                        const float v = load(first + (q / x.k * x.W + q % x.k) * x.C + c);
                        if (v > best || (v != v && best == best)) {
                            best = v;
                            which = static_cast<int>(q);
                        }
                    }
                    store(to + at + c, best);
                    place[at + c] = static_cast<std::uint8_t>(which);
                }
            }
}

/// Calls f(place of the window, first value there, its output) for all; what no window covers of `all` becomes 0.
template <class Out, class F>
[[gnu::always_inline]] inline void for_places(Out* all, const Window& x, F f) {
#pragma omp parallel for schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b) {
        if (x.h * x.k != x.H || x.w * x.k != x.W) zero(all + b * x.H * x.W * x.C, x.H * x.W * x.C);
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t a = 0; a < x.k; ++a) {
                Out* to = all + (b * x.H + i * x.k + a) * x.W * x.C;
                int64_t output = (b * x.h + i) * x.w * x.C;
                for (int64_t j = 0; j < x.w; ++j, output += x.C)
                    for (int64_t v = 0; v < x.k; ++v, to += x.C) f(static_cast<int>(a * x.k + v), to, output);
            }
    }
}

template <class In, class Out>
void largest_backward(const In* delta, const std::uint8_t* place, Out* below, const Window& x) {
    const int64_t C = x.C;
    const auto choose = [=](int q, Out* to, int64_t at, int64_t n) __attribute__((always_inline)) {
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) {
            const float d = load(delta + at + c);
            store(to + c, static_cast<std::int32_t>(place[at + c]) == q ? d : 0.0f);
        }
    };
    for_places(below, x, [=](int q, Out* to, int64_t at) {
        int64_t c = 0;
        for (; c + line <= C; c += line) choose(q, to + c, at + c, line);
        if (c < C) choose(q, to + c, at + c, C - c);
    });
}

template <class In, class Out>
void largest_tangent(const In* direction, const std::uint8_t* place, Out* to, const Window& x) {
#pragma omp parallel for schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t j = 0; j < x.w; ++j)
                for (int64_t c = 0; c < x.C; ++c) {
                    const int64_t at = ((b * x.h + i) * x.w + j) * x.C + c, q = place[at];
                    store(to + at,
                          load(direction + ((b * x.H + i * x.k + q / x.k) * x.W + j * x.k + q % x.k) * x.C + c));
                }
}

template <class In, class Out>
void mean(const In* from, Out* to, const Window& x) {
    const float share = 1.0f / static_cast<float>(x.k * x.k);
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t j = 0; j < x.w; ++j) {
                const In* first = from + ((b * x.H + i * x.k) * x.W + j * x.k) * x.C;
                Out* at = to + ((b * x.h + i) * x.w + j) * x.C;
#pragma omp simd
                for (int64_t c = 0; c < x.C; ++c) {
                    float sum = 0;
                    for (int64_t a = 0; a < x.k; ++a)
                        for (int64_t v = 0; v < x.k; ++v) sum += load(first + (a * x.W + v) * x.C + c);
                    store(at + c, sum * share);
                }
            }
}

template <class In, class Out>
void mean_backward(const In* delta, Out* below, const Window& x) {
    const int64_t C = x.C;
    const float share = 1.0f / static_cast<float>(x.k * x.k);
    for_places(below, x, [=](int, Out* to, int64_t at) {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) store(to + c, share * load(delta + at + c));
    });
}

// ---- interpolation: first between rows, then between columns

template <class In, class Out>
void repeat(const In* from, Out* to, const Window& x) {
    const int64_t C = x.C;
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.H * x.W * C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t y = 0; y < x.H; ++y) {
            const In* row = from + (b * x.h + y / x.s) * x.w * C;
            Out* at = to + (b * x.H + y) * x.W * C;
            for (int64_t j = 0; j < x.w; ++j, row += C)
                for (int64_t v = 0; v < x.s; ++v, at += C)
#pragma omp simd
                    for (int64_t c = 0; c < C; ++c) store(at + c, load(row + c));
        }
}

template <class In, class Out>
void repeat_backward(const In* delta, Out* below, const Window& x) {
    const int64_t C = x.C;
#pragma omp parallel for collapse(2) schedule(static) if (x.B * x.H * x.W * C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b)
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t j = 0; j < x.w; ++j) {
                const In* first = delta + ((b * x.H + i * x.s) * x.W + j * x.s) * C;
                Out* at = below + ((b * x.h + i) * x.w + j) * C;
                const auto add_up = [&](int64_t begin, int64_t n) __attribute__((always_inline)) {
                    float sum[line] = {};
                    for (int64_t a = 0; a < x.s; ++a)
                        for (int64_t v = 0; v < x.s; ++v) {
                            const In* from = first + (a * x.W + v) * C + begin;
#pragma omp simd
                            for (int64_t c = 0; c < n; ++c) sum[c] += load(from + c);
                        }
#pragma omp simd
                    for (int64_t c = 0; c < n; ++c) store(at + begin + c, sum[c]);
                };
                for (int64_t begin = 0; begin < C; begin += line) {
                    if (begin + line <= C)
                        add_up(begin, line);
                    else
                        add_up(begin, C - begin);
                }
            }
}

template <class In, class Out>
void interpolate(const In* from, Out* to, const Window& x, const Tap* rows, const Tap* columns, float* scratch) {
    if (!rows) return repeat(from, to, x);
    const int64_t row = x.w * x.C, C = x.C;
#pragma omp parallel for schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b) {
        float* between = scratch + omp_get_thread_num() * row;
        for (int64_t y = 0; y < x.H; ++y) {
            const Tap t = rows[y];
            const In *low = from + (b * x.h + t.low) * row, *high = from + (b * x.h + t.high) * row;
#pragma omp simd
            for (int64_t i = 0; i < row; ++i) {
                const float l = load(low + i);
                between[i] = l + t.weight * (load(high + i) - l);
            }
            for (int64_t u = 0; u < x.W; ++u) {
                const Tap v = columns[u];
                const float *left = between + v.low * C, *right = between + v.high * C;
                Out* at = to + ((b * x.H + y) * x.W + u) * C;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) store(at + c, left[c] + v.weight * (right[c] - left[c]));
            }
        }
    }
}

template <class In, class Out>
void interpolate_backward(const In* delta, Out* below, const Window& x, const Tap* rows, const Tap* columns,
                          float* scratch) {
    if (!rows) return repeat_backward(delta, below, x);
    const int64_t wide = x.W * x.C, C = x.C, size = x.h * x.w * C;
#pragma omp parallel for schedule(static) if (x.B * x.H * x.W * x.C >= parallel_elements)
    for (int64_t b = 0; b < x.B; ++b) {
        float* sums = scratch + omp_get_thread_num() * (x.h * wide + size);  // (h, W, C)
        float* result = sums + x.h * wide;
        zero(sums, x.h * wide + size);
        for (int64_t y = 0; y < x.H; ++y) {
            const Tap t = rows[y];
            const In* from = delta + (b * x.H + y) * wide;
            float *low = sums + t.low * wide, *high = sums + t.high * wide;
#pragma omp simd
            for (int64_t i = 0; i < wide; ++i) low[i] += (1.0f - t.weight) * load(from + i);
            if (t.weight == 0.0f) continue;
#pragma omp simd
            for (int64_t i = 0; i < wide; ++i) high[i] += t.weight * load(from + i);
        }
        for (int64_t i = 0; i < x.h; ++i)
            for (int64_t u = 0; u < x.W; ++u) {
                const Tap v = columns[u];
                const float* from = sums + i * wide + u * C;
                float *left = result + (i * x.w + v.low) * C, *right = result + (i * x.w + v.high) * C;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) left[c] += (1.0f - v.weight) * from[c];
                if (v.weight == 0.0f) continue;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) right[c] += v.weight * from[c];
            }
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) store(below + b * size + i, result[i]);
    }
}

template <class In, class Out>
constexpr PictureTable<In, Out> made = {add_bias<Out>,
                                        transpose<In, Out>,
                                        scatter<Out>,
                                        gather<Out>,
                                        spread<In>,
                                        largest<In, Out>,
                                        largest_backward<In, Out>,
                                        largest_tangent<In, Out>,
                                        mean<In, Out>,
                                        mean_backward<In, Out>,
                                        interpolate<In, Out>,
                                        interpolate_backward<In, Out>};

}  // namespace

template <>
const PictureTable<float, float>& table<PYDDL_LEVEL, PictureTable<float, float>>() {
    return made<float, float>;
}
template <>
const PictureTable<Bfloat16, Bfloat16>& table<PYDDL_LEVEL, PictureTable<Bfloat16, Bfloat16>>() {
    return made<Bfloat16, Bfloat16>;
}
template <>
const PictureTable<Bfloat16, float>& table<PYDDL_LEVEL, PictureTable<Bfloat16, float>>() {
    return made<Bfloat16, float>;
}

}  // namespace pyddl::kernels
