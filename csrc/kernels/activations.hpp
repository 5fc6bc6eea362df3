/// Activation functions of dense layers, and their slopes as functions of the activation's own output.
/// That the slope needs only the output lets a backward pass forget the pre-activations.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace pyddl::kernels {

enum class Activation { linear, sigmoid, relu, leaky_relu, tanh, softplus };

inline constexpr std::array<std::string_view, 6> activation_names = {"linear",     "sigmoid", "relu",
                                                                     "leaky_relu", "tanh",    "softplus"};

/// Slope of leaky_relu for negative inputs.
inline constexpr float leak = 0.01f;

/// @throws std::invalid_argument when no activation has this name
Activation activation_named(std::string_view name);

/// Whether a oneDNN product applies it to its result. Not relu, where oneDNN's turns NaN into 0, nor
/// softplus, where oneDNN's falls below 0: those need a pass of ours.
constexpr bool fuses_with_product(Activation a) { return a != Activation::relu && a != Activation::softplus; }

/// The vectorised passes, for elements stored as T; see simd.hpp. B rows, N columns, row-major and
/// contiguous.
template <class T>
struct ActivationTable {
    /// values := activation(values)
    void (*activate)(Activation activation, T* values, std::int64_t size);

    /// deltas (B, N) *= slope(outputs); bias_gradients (N), unless null, := column sums of the result.
    /// Column sums are added in the order of the rows, in blocks, whatever the number of threads.
    void (*gradient)(Activation activation, const T* outputs, T* deltas, std::int64_t rows, std::int64_t columns,
                     float* bias_gradients);
};

}  // namespace pyddl::kernels
