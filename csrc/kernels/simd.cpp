#include "kernels/simd.hpp"

#include <algorithm>
#include <cstdlib>

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
        return best > 0 && wanted ? std::clamp(std::atoi(wanted), 2, best) : best;
    }();
    return level;
}

}  // namespace pyddl::kernels
