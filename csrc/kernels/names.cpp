#include <stdexcept>
#include <string>

#include "kernels/activations.hpp"
#include "kernels/losses.hpp"

namespace pyddl::kernels {
namespace {

template <class Enum, std::size_t N>
Enum named(std::string_view name, const std::array<std::string_view, N>& names, const char* what) {
    std::string expected;
    for (std::size_t i = 0; i < N; ++i) {
        if (names[i] == name) return static_cast<Enum>(i);
        expected += (i ? ", " : "") + std::string(names[i]);
    }
    throw std::invalid_argument(std::string(what) + " is '" + std::string(name) + "'; expected one of " + expected);
}

}  // namespace

Activation activation_named(std::string_view name) { return named<Activation>(name, activation_names, "activation"); }

Loss loss_named(std::string_view name) { return named<Loss>(name, loss_names, "loss"); }

}  // namespace pyddl::kernels
