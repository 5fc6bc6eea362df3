"""All benchmarks one after another, and the page of results: ``python -m benchmarks [--size node] [--out FOLDER]``."""

from __future__ import annotations

from benchmarks import (
    adversarial_step,
    auto,
    convolution,
    harness,
    overhead,
    ranks,
    report,
    server,
    server_latency,
    split,
    start,
    step,
    sum,
    threads,
    torch_modules,
)


def main() -> None:
    options = harness.arguments(__doc__)
    shared = ["--size", options.size, "--out", str(options.out)]
    for question in (start, overhead, sum, server_latency, server, auto, split, ranks, threads, step, convolution,
                     adversarial_step, torch_modules):
        question.main(shared)
    report.main(shared)


if __name__ == "__main__":
    main()
