"""Compute kernels (csrc/kernels), one section per family. Arrays are C-contiguous and never copied or cast."""

# ---- simd.hpp

def simd_level() -> int:
    """x86-64 level the vectorised kernels run on: 4, 3, 2; 0 on other processors."""
