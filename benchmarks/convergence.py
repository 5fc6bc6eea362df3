"""How many samples and seconds does each strategy need to a fixed test error, and how does it bear longer periods?

The autoencoder 784-256-64-256-784 on MNIST (on scikit-learn's digits, 64-32-8-32-64, in size quick) with Adam on 4
ranks, batches of 256 of all ranks together. `allreduce` is the reference; the others are different algorithms, and are
worse where the table says so. Test errors are those of the model that the strategy stands for, after each epoch.
Seconds exclude evaluation; where ranks share cores they say little about a cluster, samples do.

    python -m benchmarks.convergence [--size quick|node|cluster]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Record
from pyddl.comm import launcher
from pyddl.data import find, load

__all__ = ["RUNS", "main", "reached"]

RANKS = 4
PERIODS = (1, 4, 16, 64)
RUNS = {
    "allreduce": ["--strategy", "allreduce"],
    **{f"averaging, period {p}": ["--strategy", "averaging", "--period", str(p)] for p in PERIODS},
    **{f"{name}, period {p}": ["--strategy", "averaging", "--outer", outer, "--period", str(p)]
       for name, outer in (("SlowMo", "momentum"), ("DiLoCo", "nesterov")) for p in (16, 64)},
    **{f"elastic, tau {tau}": ["--strategy", "elastic", "--tau", str(tau)] for tau in PERIODS},
    **{f"gossip, period {p}": ["--strategy", "gossip", "--period", str(p)] for p in (1, 4)},
    "sequential, 4 replicas": ["--strategy", "sequential", "--replicas", "4"],
    "local": ["--strategy", "local"],
}
PANELS = {"averaging": ("averaging", "local"), "outer optimizers": ("SlowMo", "DiLoCo"), "elastic": ("elastic",),
          "gossip, sequential": ("gossip", "sequential")}
SETTINGS = {  # data, hidden layers, epochs, squared error to reach, batch
    "quick": ("digits", "32,8", 3, 6.0, 64),
    "node": ("mnist", "256,64", 10, 4.0, 256),
    "cluster": ("mnist", "256,64", 40, 3.0, 256),
}


def train(options: Sequence[str], data: str, hidden: str, epochs: int, batch: int) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["--data", data, "--hidden", hidden, "--epochs", str(epochs), "--batch-size", str(batch), *options]
        command = [sys.executable, "-m", "pyddl", "train", "autoencoder", *own, "--quiet", "--out", f"{folder}/run"]
        line, environ = launcher.command(RANKS, command, threads=1)
        done = subprocess.run(line, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(options)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return [json.loads(text) for text in Path(folder, "run/metrics.jsonl").read_text().splitlines()]


def reached(lines: Sequence[dict[str, Any]], target: float) -> tuple[int | None, float | None]:
    """Epochs and seconds until the test squared error is at most ``target``."""
    seconds = 0.0
    for line in lines:
        seconds += line["seconds"]
        if line["test_squared_error"] <= target:
            return line["epoch"], seconds
    return None, None


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    data, hidden, epochs, target, batch = SETTINGS[options.size]
    if data == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    record = Record("convergence", options.size, options.out, data=data, ranks=RANKS, hidden=hidden, batch=batch,
                    epochs=epochs, target=target, mpi=launcher.find().family)
    rows, per_epoch = [], len(load(data))
    for name, own in RUNS.items():
        lines = train(own, data, hidden, epochs, batch)
        epoch, seconds = reached(lines, target)
        errors = [line["test_squared_error"] for line in lines]
        samples = None if epoch is None else epoch * per_epoch
        record.add(name=name, options=own, errors=errors, epochs_to_target=epoch, samples_to_target=samples,
                   seconds_to_target=seconds, samples_per_second=[line["samples_per_second"] for line in lines])
        rows.append([name, f"{errors[-1]:.3f}", f"{min(errors):.3f}", "not reached" if epoch is None else epoch,
                     "-" if samples is None else f"{samples:,}", "-" if seconds is None else f"{seconds:.1f}"])
        harness.show(" | ".join(map(str, rows[-1])))
    harness.show(harness.table(["strategy", f"error after {epochs} epochs", "lowest", f"epochs to {target:g}",
                                "samples to it", "seconds to it"], rows))
    panels = {title: {line["name"]: (list(range(1, epochs + 1)), line["errors"]) for line in record.lines
                      if line["name"].split(",")[0] in ("allreduce", *names)}
              for title, names in PANELS.items()}
    drawn = harness.plot(record.path.with_suffix(".png"), panels, "epoch", "test squared error", log="y", share_y=True)
    harness.show(f"picture {drawn}")
    return record


if __name__ == "__main__":
    main()
