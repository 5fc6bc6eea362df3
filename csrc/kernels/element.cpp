// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/element.hpp"

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

void to_bfloat16(const float* from, Bfloat16* to, std::int64_t size) {
#pragma omp parallel for simd schedule(static) if (size >= parallel_elements)
    for (std::int64_t i = 0; i < size; ++i) store(to + i, from[i]);
}

}  // namespace

template <>
const ConversionTable& table<PYDDL_LEVEL, ConversionTable>() {
    static constexpr ConversionTable t{to_bfloat16};
    return t;
}

}  // namespace pyddl::kernels
