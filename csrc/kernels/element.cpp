// Compiled once per x86-64 level; see simd.hpp.
#include "kernels/element.hpp"

#include "kernels/load_store.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

void to_bfloat16(const float* from, Bfloat16* to, std::int64_t size) {
    constexpr std::int64_t block = 4096;
#pragma omp parallel for schedule(static) if (size >= parallel_elements)
    for (std::int64_t begin = 0; begin < size; begin += block) {
        store(to + begin, from + begin, size - begin < block ? size - begin : block);
    }
}

void to_float32(const Bfloat16* from, float* to, std::int64_t size) {
    constexpr std::int64_t block = 4096;
#pragma omp parallel for schedule(static) if (size >= parallel_elements)
    for (std::int64_t begin = 0; begin < size; begin += block) {
        const std::int64_t end = size - begin < block ? size : begin + block;
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) store(to + i, load(from + i));
    }
}

}  // namespace

template <>
const ConversionTable& table<PYDDL_LEVEL, ConversionTable>() {
    static constexpr ConversionTable t{to_bfloat16, to_float32};
    return t;
}

}  // namespace pyddl::kernels
