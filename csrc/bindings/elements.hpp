/// Element types by their names.
#pragma once
#include <stdexcept>
#include <string>

#include "kernels/element.hpp"

namespace pyddl::bindings {

inline kernels::Element element_named(const std::string& name) {
    if (name == "float32") return kernels::Element::float32;
    if (name == "bfloat16") return kernels::Element::bfloat16;
    throw std::invalid_argument("dtype is '" + name + "'; expected float32 or bfloat16");
}

}  // namespace pyddl::bindings
