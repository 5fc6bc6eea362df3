/// Which x86-64 level the vectorised kernels run on, chosen once per process.
///
/// A source file named in CMake's LEVELLED_SOURCES is compiled once per level (2, 3, 4; 0 on other processors) with
/// PYDDL_LEVEL set. Its functions live in an anonymous namespace, and it defines one table of them:
///
///     template <> const LossTable& table<PYDDL_LEVEL, LossTable>() { static constexpr LossTable t{...}; return t; }
///
/// Callers write `best<LossTable>().mean_squared_error(...)`. Such a file must not call inline functions of the
/// standard library with external linkage: the linker keeps one copy, perhaps the one this processor cannot run.
#pragma once

namespace pyddl::kernels {

/// The level in use: 4 (AVX-512), 3 (AVX2, FMA), 2 (SSE4.2), or 0 where the processor is no x86-64.
/// The best that this processor has; the environment variable PYDDL_LEVEL lowers it (for tests).
int simd_level();

template <int Level, class Table>
const Table& table();

template <class Table>
const Table& best() {
#if defined(__x86_64__)
    static const Table& chosen = simd_level() >= 4   ? table<4, Table>()
                                 : simd_level() == 3 ? table<3, Table>()
                                                     : table<2, Table>();
#else
    static const Table& chosen = table<0, Table>();
#endif
    return chosen;
}

}  // namespace pyddl::kernels
