/// What all users of oneDNN share. For source files only: headers of kernels do not show the library.
#pragma once
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/activations.hpp"
#include "kernels/element.hpp"

namespace pyddl::kernels {

const dnnl::engine& engine();

/// In order; with OpenMP threads a primitive has finished when its execution returns.
dnnl::stream& stream();

dnnl::memory::data_type type_of(Element);

/// The activation, if fuses_with_product, as the next of a primitive's last operations.
void append(dnnl::post_ops&, Activation);

}  // namespace pyddl::kernels
