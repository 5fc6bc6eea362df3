#include "kernels/layer.hpp"

#include <algorithm>

#include "kernels/simd.hpp"

namespace pyddl::kernels {

void announce(const Ready& ready, std::int64_t begin, std::int64_t end, std::int64_t more, std::int64_t more_end) {
    constexpr std::int64_t alignment = 16;  // floats; slices of a layout start on multiples of it
    if (more < 0) {
        ready(begin, end);
    } else if (more >= end && more < end + alignment) {
        ready(begin, more_end);
    } else {
        ready(begin, end);
        ready(more, more_end);
    }
}

void copy(View from, View to) {
    if (from.data == to.data || from.rows == 0) return;
    const auto& table = best<ConversionTable>();
    if (from.element == to.element)
        std::copy_n(from.as<const char>(), from.size() * bytes_of(from.element), to.as<char>());
    else if (to.element == Element::bfloat16)
        table.to_bfloat16(from.as<const float>(), to.as<Bfloat16>(), from.size());
    else
        table.to_float32(from.as<const Bfloat16>(), to.as<float>(), from.size());
}

const float* in_float(View v, Scratch& scratch) {
    if (v.element == Element::float32) return v.as<const float>();
    const View to{scratch.reserve(v.size() * sizeof(float)), v.rows, v.columns};
    copy(v, to);
    return to.as<const float>();
}

}  // namespace pyddl::kernels
