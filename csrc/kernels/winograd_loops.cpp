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

/// B^T of six values
template <class V>
[[gnu::always_inline]] inline void input_column(const V (&d)[6], V (&t)[6]) {
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
[[gnu::always_inline]] inline void output_column(const V (&m)[6], V (&y)[4]) {
    const V a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2.0f * d;
    y[2] = a + 4.0f * c;
    y[3] = b + 8.0f * d + m[5];
}

/// A of four values
template <class V>
[[gnu::always_inline]] inline void delta_column(const V (&z)[4], V (&t)[6]) {
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
[[gnu::always_inline]] inline void weight_column(const V (&g)[3], V (&t)[6]) {
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
[[gnu::always_inline]] inline void gradient_column(const V (&u)[6], V (&g)[3]) {
    const V a = u[1] + u[2], b = u[3] + u[4];
    g[0] = 0.25f * u[0] - (1.0f / 6) * a + (1.0f / 24) * b;
    g[1] = (1.0f / 6) * (u[2] - u[1]) + (1.0f / 12) * (u[3] - u[4]);
    g[2] = (1.0f / 6) * (b - a) + u[5];
}

/// Where a tile lies.
struct Place {
    int64_t b, y, x;
    Place(int64_t tile, const Picture& p) {
        const int64_t across = (p.width + 3) / 4, down = (p.height + 3) / 4;
        b = tile / (across * down);
        y = tile / across % down * 4;
        x = tile % across * 4;
    }
};

void inputs(const float* x, float* to, const Picture& p, int64_t begin, int64_t end, int64_t stride) {
    const int64_t C = p.channels, row = p.width * C;
#pragma omp parallel for schedule(static) if ((end - begin) * C >= parallel_elements / 16)
    for (int64_t t = begin; t < end; ++t) {
        const Place at(t, p);
        const float* picture = x + at.b * p.height * row;
        float* out = to + (t - begin) * C;
        for (int64_t c = 0; c < C; c += lanes) {
            Lanes half[6][6];  // [row of B^T][column of the tile]
            for (int j = 0; j < 6; ++j) {
                const int64_t u = at.x + j - 1;
                Lanes d[6], column[6];
                for (int i = 0; i < 6; ++i) {
                    const int64_t v = at.y + i - 1;
                    const bool inside = u >= 0 && u < p.width && v >= 0 && v < p.height;
                    d[i] = inside ? read(picture + v * row + u * C + c) : Lanes{};
                }
                input_column(d, column);
                for (int i = 0; i < 6; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < 6; ++i) {
                Lanes result[6];
                input_column(half[i], result);
                for (int j = 0; j < 6; ++j) write(out + (i * 6 + j) * stride * C + c, result[j]);
            }
        }
    }
}

void outputs(const float* m, float* y, const Picture& p, const float* bias, bool relu, int64_t begin, int64_t end,
             int64_t stride) {
    const int64_t C = p.channels, row = p.width * C;
#pragma omp parallel for schedule(static) if ((end - begin) * C >= parallel_elements / 16)
    for (int64_t t = begin; t < end; ++t) {
        const Place at(t, p);
        float* picture = y + at.b * p.height * row;
        const float* from = m + (t - begin) * C;
        for (int64_t c = 0; c < C; c += lanes) {
            Lanes half[4][6];
            for (int j = 0; j < 6; ++j) {
                Lanes d[6], column[4];
                for (int i = 0; i < 6; ++i) d[i] = read(from + (i * 6 + j) * stride * C + c);
                output_column(d, column);
                for (int i = 0; i < 4; ++i) half[i][j] = column[i];
            }
            const Lanes b = bias ? read(bias + c) : Lanes{};
            for (int i = 0; i < 4 && at.y + i < p.height; ++i) {
                Lanes result[4];
                output_column(half[i], result);
                for (int j = 0; j < 4 && at.x + j < p.width; ++j) {
                    Lanes v = result[j] + b;
                    if (relu) v = v < Lanes{} ? Lanes{} : v;
                    write(picture + (at.y + i) * row + (at.x + j) * C + c, v);
                }
            }
        }
    }
}

void deltas(const float* z, float* to, const Picture& p, int64_t begin, int64_t end, int64_t stride) {
    const int64_t C = p.channels, row = p.width * C;
#pragma omp parallel for schedule(static) if ((end - begin) * C >= parallel_elements / 16)
    for (int64_t t = begin; t < end; ++t) {
        const Place at(t, p);
        const float* picture = z + at.b * p.height * row;
        float* out = to + (t - begin) * C;
        for (int64_t c = 0; c < C; c += lanes) {
            Lanes half[6][4];
            for (int j = 0; j < 4; ++j) {
                Lanes d[4], column[6];
                for (int i = 0; i < 4; ++i) {
                    const bool inside = at.y + i < p.height && at.x + j < p.width;
                    d[i] = inside ? read(picture + (at.y + i) * row + (at.x + j) * C + c) : Lanes{};
                }
                delta_column(d, column);
                for (int i = 0; i < 6; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < 6; ++i) {
                Lanes result[6];
                delta_column(half[i], result);
                for (int j = 0; j < 6; ++j) write(out + (i * 6 + j) * stride * C + c, result[j]);
            }
        }
    }
}

void weights(const float* g, float* to, int64_t C, int64_t K, bool turned) {
#pragma omp parallel for schedule(static) if (C * K >= parallel_elements / 16)
    for (int64_t c = 0; c < C; ++c)
        for (int64_t k = 0; k < K; k += lanes) {
            Lanes half[6][3];
            for (int j = 0; j < 3; ++j) {
                Lanes d[3], column[6];
                for (int i = 0; i < 3; ++i) {
                    const int tap = i * 3 + j;
                    d[i] = read(g + ((turned ? 8 - tap : tap) * C + c) * K + k);
                }
                weight_column(d, column);
                for (int i = 0; i < 6; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < 6; ++i) {
                Lanes result[6];
                weight_column(half[i], result);
                for (int j = 0; j < 6; ++j) write(to + ((i * 6 + j) * C + c) * K + k, result[j]);
            }
        }
}

void gradients(const float* u, float* g, int64_t C, int64_t K, bool add) {
#pragma omp parallel for schedule(static) if (C * K >= parallel_elements / 16)
    for (int64_t c = 0; c < C; ++c)
        for (int64_t k = 0; k < K; k += lanes) {
            Lanes half[3][6];
            for (int j = 0; j < 6; ++j) {
                Lanes d[6], column[3];
                for (int i = 0; i < 6; ++i) d[i] = read(u + ((i * 6 + j) * C + c) * K + k);
                gradient_column(d, column);
                for (int i = 0; i < 3; ++i) half[i][j] = column[i];
            }
            for (int i = 0; i < 3; ++i) {
                Lanes result[3];
                gradient_column(half[i], result);
                for (int j = 0; j < 3; ++j) {
                    float* at = g + ((i * 3 + j) * C + c) * K + k;
                    write(at, add ? read(at) + result[j] : result[j]);
                }
            }
        }
}

}  // namespace

template <>
const WinogradTable& table<PYDDL_LEVEL, WinogradTable>() {
    static constexpr WinogradTable t{inputs, outputs, deltas, weights, gradients};
    return t;
}

}  // namespace pyddl::kernels
