"""Programs that the benchmarks time, each in a process and perhaps an environment of its own."""
