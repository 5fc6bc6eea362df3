"""How fast pyddl is, and against whom: one file per question. ``python -m benchmarks`` answers them all."""
