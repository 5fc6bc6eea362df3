#include "kernels/simd.hpp"

#include <cstdlib>
#include <string>

namespace pyddl::kernels {
namespace {

int best_level_of_this_processor() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 4;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("fma"))
        return 3;
    return 2;
#else
    return 0;
#endif
}

}  // namespace

int simd_level() {
    static const int level = [] {
        const int best = best_level_of_this_processor();
        const char* wanted = std::getenv("PYDDL_LEVEL");
        for (int level = 2; level < best; ++level)
            if (wanted != nullptr && wanted == std::to_string(level)) return level;
        return best;
    }();
    return level;
}

}  // namespace pyddl::kernels
