"""What do old parameters cost, and what does not waiting gain? Each way to train together, on simulated workers.

A real autoencoder is trained on real rows by workers on a virtual clock (`pyddl simulate`), so that speeds, waits and
the order of arrivals are those of the machine described, and a run is replayed by its seed. Two questions:

    staleness   test error after the same samples, over the number of workers, the bound, and tau
    straggler   virtual seconds to a target error on 8 workers, all alike, and with one of them 3 times slower

    python -m benchmarks.asynchronous [--size quick|node|cluster]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl.comm.machine import Machine
from pyddl.data import Source, load
from pyddl.models import Autoencoder
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train.simulation import Simulated, simulate

__all__ = ["SLOWER", "STRAGGLER", "main", "seconds_to"]

WORKERS = 8
SLOWER = 3.0
SETTINGS = {  # data, hidden layers, batch, epochs, seeds, squared error to reach
    "quick": ("digits", (16, 4), 256, 2, 1, 12.0),
    "node": ("digits", (32, 8), 64, 40, 3, 2.2),
    "cluster": ("mnist", (256, 64), 512, 10, 5, 5.0),
}
STALENESS: dict[str, dict[str, dict[str, Any]]] = {  # panel: line: options, with the abscissa as ``over``
    "workers": {
        "sync": {"strategy": "server", "mode": "sync"},
        "async": {"strategy": "server", "mode": "async"},
        "async, staleness ignored": {"strategy": "server", "mode": "async", "staleness": "ignored"},
        "elastic async, tau 10": {"strategy": "elastic", "mode": "async"},
    },
    "tau": {
        "Downpour": {"strategy": "server", "mode": "async", "over": ("push_every", "fetch_every")},
        "Downpour, AdaGrad": {"strategy": "server", "mode": "async", "server_optimizer": "adagrad", "rate": 0.03,
                              "over": ("push_every", "fetch_every")},
        "elastic async": {"strategy": "elastic", "mode": "async", "over": ("tau",)},
        "elastic sync": {"strategy": "elastic", "mode": "sync", "over": ("tau",)},
        "averaging": {"strategy": "averaging", "over": ("period",)},
    },
    "bound, one worker 3 times slower": {"ssp": {"strategy": "server", "mode": "ssp", "over": ("bound",)}},
}
OVER = {"workers": (1, 2, 4, 8, 16, 32), "tau": (1, 4, 16, 64), "bound, one worker 3 times slower": (0, 1, 3, 10, 30)}
STRAGGLER: dict[str, dict[str, Any]] = {
    "allreduce": {"strategy": "allreduce"},
    "server sync": {"strategy": "server", "mode": "sync"},
    "server sync, 1 backup": {"strategy": "server", "mode": "sync", "backup": 1},
    "server ssp, bound 3": {"strategy": "server", "mode": "ssp"},
    "server async": {"strategy": "server", "mode": "async"},
    "server async, staleness ignored": {"strategy": "server", "mode": "async", "staleness": "ignored"},
    "elastic sync, tau 10": {"strategy": "elastic", "mode": "sync"},
    "elastic async, tau 10": {"strategy": "elastic", "mode": "async"},
    "averaging, period 16": {"strategy": "averaging"},
    "gossip": {"strategy": "gossip"},
}


class Bench:
    """Runs with one model, one data set and one machine."""

    def __init__(self, data: str, hidden: tuple[int, ...], batch: int, epochs: int, seeds: int):
        self.data: Source = load(data)
        self.test = self.data.test or self.data
        self.model = Autoencoder(self.data.features, hidden=hidden)
        self.batch, self.epochs, self.seeds = batch, epochs, seeds

    def runs(self, options: dict[str, Any], workers: int = WORKERS, straggler: float = 1.0) -> list[Simulated]:
        """One for each seed."""
        own = {name: value for name, value in options.items() if name not in ("strategy", "over", "rate")}
        found = []
        for seed in range(self.seeds):
            chosen = strategy(options["strategy"], **own)
            rule = chosen.server_rule.get("optimizer", "adam")
            rate = {"learning_rate": options["rate"]} if "rate" in options else {}
            found.append(simulate(
                self.model, self.data, self.test, chosen, workers, optimizer("adam"), epochs=self.epochs,
                batch_size=self.batch, seed=seed, machine=Machine(seed=seed, straggler=straggler), points=100,
                server_optimizer=optimizer(rule, **rate)))
        return found


def error(runs: Sequence[Simulated]) -> float:
    """Test squared error at the end: the median of the seeds."""
    return statistics.median(run.curve[-1]["test_squared_error"] for run in runs)


def seconds_to(curve: Sequence[Mapping[str, Any]], target: float) -> float | None:
    """Seconds until the test squared error is at most ``target``, between two points of the curve."""
    before = None
    for point in curve:
        if point["test_squared_error"] <= target:
            if before is None:
                return float(point["seconds"])
            here, there = point["test_squared_error"], before["test_squared_error"]
            return float(np.interp(-target, [-there, -here], [before["seconds"], point["seconds"]]))
        before = point
    return None


def staleness_of(runs: Sequence[Simulated]) -> float | None:
    """Mean staleness of a push, where there are servers."""
    counts = [(int(age), times) for run in runs for server in run.servers for age, times in server["staleness"].items()]
    return sum(age * times for age, times in counts) / sum(times for _, times in counts) if counts else None


def staleness(bench: Bench, record: Record) -> None:
    """Test error after the same samples."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for panel, lines in STALENESS.items():
        rows = []
        for name, options in lines.items():
            errors, ages = [], []
            for value in OVER[panel]:
                given = {**options, **dict.fromkeys(options.get("over", ()), value)}
                workers = value if panel == "workers" else WORKERS
                if workers == 1 and options.get("strategy") == "elastic":
                    continue
                runs = bench.runs(given, workers, SLOWER if "slower" in panel else 1.0)
                errors.append((value, error(runs)))
                ages.append(staleness_of(runs))
                record.add(table="staleness", panel=panel, name=name, value=value, error=errors[-1][1],
                           staleness=ages[-1], seconds=statistics.median(run.seconds for run in runs))
            by_value = dict(errors)
            rows.append([name, *(f"{by_value[v]:.2f}" if v in by_value else "-" for v in OVER[panel])])
            drawn = [(float(v), e) for v, e in errors if v > 0]  # the axis is logarithmic
            panels.setdefault(panel, {})[name] = ([v for v, _ in drawn], [e for _, e in drawn])
            if any(ages):
                rows.append(["  mean staleness", *("" for _ in range(len(OVER[panel]) - len(ages))),
                             *(f"{age:.1f}" for age in ages if age is not None)])
        harness.show(harness.table([f"error after {bench.epochs} epochs, over {panel}", *OVER[panel]], rows))
    picture = harness.plot(record.path.with_suffix(".png"), panels, "", "test squared error", log="x")
    harness.show(f"picture {picture}")


def straggler(bench: Bench, record: Record, target: float) -> None:
    """Virtual seconds to a target error, with and without a slow worker."""
    rows = []
    for name, options in STRAGGLER.items():
        cells: list[str] = []
        found: dict[str, Any] = {}
        for slower in (1.0, SLOWER):
            runs = bench.runs(options, straggler=slower)
            times = [seconds_to(run.curve, target) for run in runs]
            reached = [seconds for seconds in times if seconds is not None]
            median = statistics.median(reached) if len(reached) == len(runs) else None
            found[f"{slower:g}"] = {"seconds": median, "error": error(runs), "all": times,
                                    "whole": statistics.median(run.seconds for run in runs),
                                    "dropped": sum(server["dropped_samples"] for run in runs for server in run.servers)}
            cells += ["not reached" if median is None else f"{median:.3f}", f"{found[f'{slower:g}']['whole']:.3f}",
                      f"{error(runs):.2f}"]
        record.add(table="straggler", name=name, target=target, alike=found["1"], slow=found[f"{SLOWER:g}"])
        rows.append([name, *cells])
        harness.show(" | ".join(rows[-1]))
    harness.show(harness.table([f"seconds to {target:g}", "all alike", "run", "error", "one 3 times slower", "run",
                                "error"], rows))


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    data, hidden, batch, epochs, seeds, target = SETTINGS[options.size]
    bench = Bench(data, hidden, batch, epochs, seeds)
    record = Record("asynchronous", options.size, options.out, data=data, hidden=list(hidden), batch=batch,
                    epochs=epochs, seeds=seeds, target=target, workers=WORKERS, slower=SLOWER)
    straggler(bench, record, target)
    staleness(bench, record)
    return record


if __name__ == "__main__":
    main()
