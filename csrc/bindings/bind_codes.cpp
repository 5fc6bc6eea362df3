/// Normal distributions as codes: what a variational autoencoder does between its encoder and its decoder.
#include "bindings/views.hpp"
#include "kernels/check.hpp"
#include "kernels/layers/noise.hpp"

namespace pyddl::bindings {

using namespace pybind11::literals;

namespace {

using Floats = Array<float>;

/// Codes (B, 2 n) for as many samples as there is noise (B S, n).
kernels::GaussianCodes codes_of(const Floats& codes, const Floats& noise) {
    const auto c = matrix(codes, "codes"), e = matrix(noise, "noise");
    if (c.columns % 2 || e.columns != c.columns / 2)
        throw std::invalid_argument("codes have " + std::to_string(c.columns) + " columns, and noise has " +
                                    std::to_string(e.columns) + "; expected twice as many as noise");
    const std::int64_t samples = c.rows ? e.rows / c.rows : 1;
    if (samples < 1 || e.rows != c.rows * samples)
        throw std::invalid_argument("noise has " + std::to_string(e.rows) + " rows; expected a multiple of the " +
                                    std::to_string(c.rows) + " of codes");
    return {c.data, c.rows, e.columns, samples};
}

}  // namespace

void register_codes(py::module_& m) {
    m.def(
        "sample_codes",
        [](const Floats& codes, const Floats& noise, Floats& out) {
            const auto c = codes_of(codes, noise);
            const auto z = out_matrix(out, "out");
            kernels::check_shape("out", z, c.rows * c.samples, c.size);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            kernels::sample_codes(c, noise.data(), z.data);
        },
        "codes"_a.noconvert(), "noise"_a.noconvert(), "out"_a.noconvert());
    m.def(
        "codes_backward",
        [](const Floats& codes, const Floats& noise, const Floats& deltas, float weight, Floats& out) {
            const auto c = codes_of(codes, noise);
            const auto d = matrix(deltas, "deltas");
            const auto to = out_matrix(out, "out");
            kernels::check_shape("deltas", d, c.rows * c.samples, c.size);
            kernels::check_shape("out", to, c.rows, 2 * c.size);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            kernels::codes_backward(c, noise.data(), d.data, weight, to.data);
        },
        "codes"_a.noconvert(), "noise"_a.noconvert(), "deltas"_a.noconvert(), "weight"_a, "out"_a.noconvert());
    m.def(
        "codes_divergence",
        [](const Floats& codes) {
            const auto c = matrix(codes, "codes");
            if (c.columns % 2)
                throw std::invalid_argument("codes have " + std::to_string(c.columns) +
                                            " columns; expected as many log variances as means");
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            return kernels::codes_divergence({c.data, c.rows, c.columns / 2});
        },
        "codes"_a.noconvert());
    m.def(
        "codes_log_ratios",
        [](const Floats& codes, const Floats& noise, Array<double>& out) {
            const auto c = codes_of(codes, noise);
            const auto to = out_vector(out, "out");
            kernels::check_size("out", to, c.rows * c.samples);
            const py::gil_scoped_release no_gil;  // below, no Python object is touched
            kernels::codes_log_ratios(c, noise.data(), to.data());
        },
        "codes"_a.noconvert(), "noise"_a.noconvert(), "out"_a.noconvert());
}

}  // namespace pyddl::bindings
