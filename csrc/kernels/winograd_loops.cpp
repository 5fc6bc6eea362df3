// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"
#include "kernels/winograd.hpp"

namespace pyddl::kernels {
namespace {

using std::int64_t;

// Vectors are passed between functions that are all inlined: how they would be passed to others is of no concern.
#pragma GCC diagnostic ignored "-Wpsabi"

constexpr int64_t lanes = 16;
typedef float Lanes __attribute__((vector_size(64)));

[[gnu::always_inline]] inline Lanes read(const float* p) {
    Lanes v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
[[gnu::always_inline]] inline void write(float* p, Lanes v) { __builtin_memcpy(p, &v, sizeof v); }

/// F(4 x 4, 3 x 3), stride one.
struct Dense {
    static constexpr int points = 6, taps = 3, kernel = 3, stride = 1, phases = 1;
    /// Places between the first that a tile sees and that of its first output.
    static constexpr int before(int) { return 1; }
    static constexpr int tap(int, int t) { return t; }

    /// B^T of six values
    template <class V>
    [[gnu::always_inline]] static void input(const V (&d)[6], V (&t)[6]) {
        t[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
        const V a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1];
        t[1] = a + b;
        t[2] = a - b;
        const V c = d[4] - d[2], e = 2.0f * (d[3] - d[1]);
        t[3] = c + e;
        t[4] = c - e;
        t[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
    }
    /// A^T of six values
    template <class V>
    [[gnu::always_inline]] static void output(const V (&m)[6], V (&y)[4]) {
        const V a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
        y[0] = m[0] + a + c;
        y[1] = b + 2.0f * d;
        y[2] = a + 4.0f * c;
        y[3] = b + 8.0f * d + m[5];
    }
    /// A of four values
    template <class V>
    [[gnu::always_inline]] static void delta(const V (&z)[4], V (&t)[6]) {
        const V a = z[0] + z[2], b = z[1] + z[3], c = z[0] + 4.0f * z[2], d = 2.0f * z[1] + 8.0f * z[3];
        t[0] = z[0];
        t[1] = a + b;
        t[2] = a - b;
        t[3] = c + d;
        t[4] = c - d;
        t[5] = z[3];
    }
    /// G of three values
    template <class V>
    [[gnu::always_inline]] static void weight(const V (&g)[3], V (&t)[6]) {
        t[0] = 0.25f * g[0];
        const V a = (-1.0f / 6) * (g[0] + g[2]), b = (1.0f / 6) * g[1];
        t[1] = a - b;
        t[2] = a + b;
        const V c = (1.0f / 24) * g[0] + (1.0f / 6) * g[2], d = (1.0f / 12) * g[1];
        t[3] = c + d;
        t[4] = c - d;
        t[5] = g[2];
    }
    /// G^T of six values
    template <class V>
    [[gnu::always_inline]] static void gradient(const V (&u)[6], V (&g)[3]) {
        const V a = u[1] + u[2], b = u[3] + u[4];
        g[0] = 0.25f * u[0] - (1.0f / 6) * a + (1.0f / 24) * b;
        g[1] = (1.0f / 6) * (u[2] - u[1]) + (1.0f / 12) * (u[3] - u[4]);
        g[2] = (1.0f / 6) * (b - a) + u[5];
    }
};

/// F(4 x 4, 2 x 2) of each of four phases, stride two; phase 0 has the even rows (columns), phase 1 the odd ones.
struct Strided {
    static constexpr int points = 5, taps = 2, kernel = 4, stride = 2, phases = 2;
    static constexpr int before(int phase) { return phase; }
    static constexpr int tap(int phase, int t) { return 1 - phase + 2 * t; }

    /// B^T of five values
    template <class V>
    [[gnu::always_inline]] static void input(const V (&d)[5], V (&t)[5]) {
        const V a = d[3] - d[1];
        t[0] = 2.0f * (d[0] - d[2]) + a;
        t[1] = d[3] - d[2] - 2.0f * d[1];
        t[2] = d[3] - 3.0f * d[2] + 2.0f * d[1];
        t[3] = a;
        t[4] = d[4] - d[2] - 2.0f * a;
    }
    /// B of five values
    template <class V>
    [[gnu::always_inline]] static void scattered(const V (&m)[5], V (&d)[5]) {
        const V a = m[0] + m[3] - 2.0f * m[4];
        d[0] = 2.0f * m[0];
        d[1] = 2.0f * (m[2] - m[1]) - a;
        d[2] = -2.0f * m[0] - m[1] - 3.0f * m[2] - m[4];
        d[3] = a + m[1] + m[2];
        d[4] = m[4];
    }
    /// A^T of five values
    template <class V>
    [[gnu::always_inline]] static void output(const V (&m)[5], V (&y)[4]) {
        const V a = m[1] + m[2], b = m[1] - m[2];
        y[0] = m[0] + a + m[3];
        y[1] = b + 2.0f * m[3];
        y[2] = a + 4.0f * m[3];
        y[3] = b + 8.0f * m[3] + m[4];
    }
    /// A of four values
    template <class V>
    [[gnu::always_inline]] static void delta(const V (&z)[4], V (&t)[5]) {
        const V a = z[0] + z[2], b = z[1] + z[3];
        t[0] = z[0];
        t[1] = a + b;
        t[2] = a - b;
        t[3] = z[0] + 4.0f * z[2] + 2.0f * (z[1] + 4.0f * z[3]);
        t[4] = z[3];
    }
    /// G of two values
    template <class V>
    [[gnu::always_inline]] static void weight(const V (&g)[2], V (&t)[5]) {
        t[0] = 0.5f * g[0];
        t[1] = -0.5f * (g[0] + g[1]);
        t[2] = (1.0f / 6) * (g[1] - g[0]);
        t[3] = (1.0f / 6) * g[0] + (1.0f / 3) * g[1];
        t[4] = g[1];
    }
    /// G^T of five values
    template <class V>
    [[gnu::always_inline]] static void gradient(const V (&u)[5], V (&g)[2]) {
        g[0] = 0.5f * (u[0] - u[1]) + (1.0f / 6) * (u[3] - u[2]);
        g[1] = -0.5f * u[1] + (1.0f / 6) * u[2] + (1.0f / 3) * u[3] + u[4];
    }
};

/// Where a tile's outputs lie in the smaller picture, of so many rows and columns.
struct Place {
    int64_t b, y, x;
    Place(int64_t tile, int64_t rows, int64_t columns) {
        const int64_t across = (columns + 3) / 4, down = (rows + 3) / 4;
        b = tile / (across * down);
        y = tile / across % down * 4;
        x = tile % across * 4;
    }
};

template <class F>
void inputs(const float* x, float* to, const Picture& p, int64_t begin, int64_t end, int64_t stride) {
    constexpr int N = F::points, phases = F::phases * F::phases;
    const int64_t C = p.channels, row = p.width * C, columns = phases * C;
#pragma omp parallel for schedule(static) if ((end - begin) * columns >= parallel_elements / 16)
    for (int64_t t = begin; t < end; ++t) {
        const Place at(t, p.height / F::stride, p.width / F::stride);
        const float* picture = x + at.b * p.height * row;
        for (int phase = 0; phase < phases; ++phase) {
            const int64_t top = at.y * F::stride - F::before(phase / F::phases);
            const int64_t left = at.x * F::stride - F::before(phase % F::phases);
            float* out = to + (t - begin) * columns + phase * C;
            for (int64_t c = 0; c < C; c += lanes) {
                Lanes half[N][N];  // [row of B^T][column of the tile]
                for (int j = 0; j < N; ++j) {
                    const int64_t u = left + j * F::stride;
                    Lanes d[N], column[N];
                    for (int i = 0; i < N; ++i) {
                        const int64_t v = top + i * F::stride;
                        const bool inside = u >= 0 && u < p.width && v >= 0 && v < p.height;
                        d[i] = inside ? read(picture + v * row + u * C + c) : Lanes{};
                    }
                    F::input(d, column);
                    for (int i = 0; i < N; ++i) half[i][j] = column[i];
                }
                for (int i = 0; i < N; ++i) {
                    Lanes result[N];
                    F::input(half[i], result);
                    for (int j = 0; j < N; ++j) write(out + (i * N + j) * stride * columns + c, result[j]);
                }
            }
        }
    }
}

/// Tiles of a row come one after another, so what lies in the first row or column of a tile, but not of the picture, is
/// there already, and all else is not.
void scatter(const float* m, float* x, const Picture& p, int64_t begin, int64_t end, int64_t stride) {
    using F = Strided;
    constexpr int N = F::points, phases = F::phases * F::phases;
    const int64_t C = p.channels, row = p.width * C, columns = phases * C, h = p.height / F::stride,
                  w = p.width / F::stride, each = (h + 3) / 4 * ((w + 3) / 4);
#pragma omp parallel for schedule(static) if ((end - begin) * columns >= parallel_elements / 16)
    for (int64_t first = begin; first < end; first += each)
        for (int64_t t = first; t < first + each; ++t) {
            const Place at(t, h, w);
            float* picture = x + at.b * p.height * row;
            for (int phase = 0; phase < phases; ++phase) {
                const int64_t top = at.y * F::stride - F::before(phase / F::phases);
                const int64_t left = at.x * F::stride - F::before(phase % F::phases);
                const float* from = m + (t - begin) * columns + phase * C;
                for (int64_t c = 0; c < C; c += lanes) {
                    Lanes half[N][N];
                    for (int j = 0; j < N; ++j) {
                        Lanes d[N], column[N];
                        for (int i = 0; i < N; ++i) d[i] = read(from + (i * N + j) * stride * columns + c);
                        F::scattered(d, column);
                        for (int i = 0; i < N; ++i) half[i][j] = column[i];
                    }
                    for (int i = 0; i < N; ++i) {
                        const int64_t v = top + i * F::stride;
                        if (v < 0 || v >= p.height) continue;
                        Lanes result[N];
                        F::scattered(half[i], result);
                        for (int j = 0; j < N; ++j) {
                            const int64_t u = left + j * F::stride;
                            if (u < 0 || u >= p.width) continue;
                            float* to = picture + v * row + u * C + c;
                            const bool there = (i == 0 && at.y > 0) || (j == 0 && at.x > 0);
                            write(to, there ? read(to) + result[j] : result[j]);
                        }
                    }
                }
            }
        }
}

template <class F>
void outputs(const float* m, float* y, const Picture& p, const float* bias, bool relu, int64_t begin, int64_t end,
             int64_t stride) {
    constexpr int N = F::points;
    const int64_t C = p.channels, row = p.width * C;
#pragma omp parallel for schedule(static) if ((end - begin) * C >= parallel_elements / 16)
    for (int64_t t = begin; t < end; ++t) {
        const Place at(t, p.height, p.width);
        float* picture = y + at.b * p.height * row;
        const float* from = m + (t - begin) * C;
        for (int64_t c = 0; c < C; c += lanes) {
            Lanes half[4][N];
            for (int j = 0; j < N; ++j) {
                Lanes d[N], column[4];
                for (int i = 0; i < N; ++i) d[i] = read(from + (i * N + j) * stride * C + c);
                F::output(d, column);
                for (int i = 0; i < 4; ++i) half[i][j] = column[i];
            }
            const Lanes b = bias ? read(bias + c) : Lanes{};
            for (int i = 0; i < 4 && at.y + i < p.height; ++i) {
                Lanes result[4];
                F::output(half[i], result);
                for (int j = 0; j < 4 && at.x + j < p.width; ++j) {
                    Lanes v = result[j] + b;
                    if (relu) v = v < Lanes{} ? Lanes{} : v;
                    write(picture + (at.y + i) * row + (at.x + j) * C + c, v);
                }
            }
        }
    }
}

template <class F>
void deltas(const float* z, float* to, const Picture& p, int64_t begin, int64_t end, int64_t stride) {
    constexpr int N = F::points;
    const int64_t C = p.channels, row = p.width * C;
#pragma omp parallel for schedule(static) if ((end - begin) * C >= parallel_elements / 16)
    for (int64_t t = begin; t < end; ++t) {
        const Place at(t, p.height, p.width);
        const float* picture = z + at.b * p.height * row;
        float* out = to + (t - begin) * C;
        for (int64_t c = 0; c < C; c += lanes) {
            Lanes half[N][4];
            for (int j = 0; j < 4; ++j) {
                Lanes d[4], column[N];
                for (int i = 0; i < 4; ++i) {
                    const bool inside = at.y + i < p.height && at.x + j < p.width;
                    d[i] = inside ? read(picture + (at.y + i) * row + (at.x + j) * C + c) : Lanes{};
                }
                F::delta(d, column);
                for (int i = 0; i < N; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < N; ++i) {
                Lanes result[N];
                F::delta(half[i], result);
                for (int j = 0; j < N; ++j) write(out + (i * N + j) * stride * C + c, result[j]);
            }
        }
    }
}

/// Where the tap (i, j) of a phase's kernel lies among those of all; turned: of the kernel turned round.
template <class F>
constexpr int tap(int phase, int i, int j, bool turned) {
    const int at = F::tap(phase / F::phases, i) * F::kernel + F::tap(phase % F::phases, j);
    return turned ? F::kernel * F::kernel - 1 - at : at;
}

template <class F>
void weights(const float* g, float* to, int64_t C, int64_t K, bool turned) {
    constexpr int N = F::points, R = F::taps, phases = F::phases * F::phases;
#pragma omp parallel for schedule(static) if (phases * C * K >= parallel_elements / 16)
    for (int64_t r = 0; r < phases * C; ++r) {
        const int phase = static_cast<int>(r / C);
        const int64_t c = r % C;
        for (int64_t k = 0; k < K; k += lanes) {
            Lanes half[N][R];
            for (int j = 0; j < R; ++j) {
                Lanes d[R], column[N];
                for (int i = 0; i < R; ++i) d[i] = read(g + (tap<F>(phase, i, j, turned) * C + c) * K + k);
                F::weight(d, column);
                for (int i = 0; i < N; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < N; ++i) {
                Lanes result[N];
                F::weight(half[i], result);
                for (int j = 0; j < N; ++j) write(to + ((i * N + j) * phases * C + r) * K + k, result[j]);
            }
        }
    }
}

template <class F>
void gradients(const float* u, float* g, int64_t C, int64_t K, bool add) {
    constexpr int N = F::points, R = F::taps, phases = F::phases * F::phases;
#pragma omp parallel for schedule(static) if (phases * C * K >= parallel_elements / 16)
    for (int64_t r = 0; r < phases * C; ++r) {
        const int phase = static_cast<int>(r / C);
        const int64_t c = r % C;
        for (int64_t k = 0; k < K; k += lanes) {
            Lanes half[R][N];
            for (int j = 0; j < N; ++j) {
                Lanes d[N], column[R];
                for (int i = 0; i < N; ++i) d[i] = read(u + ((i * N + j) * phases * C + r) * K + k);
                F::gradient(d, column);
                for (int i = 0; i < R; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < R; ++i) {
                Lanes result[R];
                F::gradient(half[i], result);
                for (int j = 0; j < R; ++j) {
                    float* at = g + (tap<F>(phase, i, j, false) * C + c) * K + k;
                    write(at, add ? read(at) + result[j] : result[j]);
                }
            }
        }
    }
}

template <class F>
constexpr WinogradPasses passes = {inputs<F>, outputs<F>, deltas<F>, nullptr, weights<F>, gradients<F>};

constexpr WinogradPasses strided() {
    WinogradPasses made = passes<Strided>;
    made.scatter = scatter;
    return made;
}

}  // namespace

template <>
const WinogradTable& table<PYDDL_LEVEL, WinogradTable>() {
    static constexpr WinogradTable t{passes<Dense>, strided()};
    return t;
}

}  // namespace pyddl::kernels
