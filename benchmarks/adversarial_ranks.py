"""How far are samples of an adversarial pair from held-out rows after so many seconds, on how
many ranks, under which strategy?

The pair of all digits of `benchmarks.adversarial` (of scikit-learn's digits in size quick); the distance is Frechet's
in the features of a classifier, and all see as many rows. Real ranks are of this machine, one thread each; simulated
ones do the arithmetic of so many on a clock whose times of a gradient and an update are measured here first, over a
network of 10 Gbit/s. Servers are among the real ranks, and beside simulated ones. Seconds are without evaluations;
where other work fills the machine, those of real ranks say little.

    python -m benchmarks.adversarial_ranks [--size quick|node|cluster] [--part all|simulated|real]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.adversarial import DIGITS, Judge, classifier_of
from benchmarks.harness import Record
from pyddl import _core, world
from pyddl.comm import launcher
from pyddl.comm.machine import Machine
from pyddl.comm.threads import cores
from pyddl.data import ArraySource, Source, find, load
from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.models import GAN
from pyddl.optim.given import optimizer_of
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.simulation import simulate

__all__ = ["as_rank", "main"]

POINTS = 16  # of a simulated curve
ROUNDS = 15  # of which each time is the least: other work only adds to it
STRATEGIES: dict[str, dict[str, Any]] = {
    "allreduce": {"strategy": "allreduce"},
    "averaging, period 4": {"strategy": "averaging", "period": 4},
    "averaging, period 16": {"strategy": "averaging", "period": 16},
    "server, async": {"strategy": "server", "mode": "async"},
}
SETTINGS = {  # data, epochs, simulated workers, seeds
    "quick": ("digits", 2, (2,), 1),
    "node": ("mnist", 2, (1, 8), 1),
    "cluster": ("mnist", 4, (1, 2, 8, 32), 5),
}
RANKS = (1, 2)
NEAR = 1.1  # times the distance that one process ends at: as good

Curve = list[tuple[float, float]]  # seconds, distance


class Judged(GAN):
    """A pair whose loss on a test set of one row, which says nothing, is the judge's distance of its samples."""

    judge: Judge
    blank: Source

    @classmethod
    def made(cls, judge: Judge, rows: Source, options: Mapping[str, Any]) -> Judged:
        """The pair for these rows."""
        model = cls.for_data(rows, **options)
        assert isinstance(model, cls)
        model.judge, model.blank = judge, ArraySource(np.zeros((1, rows.features), dtype=np.float32))
        return model

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """``loss``: the distance."""
        samples = self.sample(parameters, buffers, self.judge.count, 0) if len(batch) else None
        return {"loss": 0.0 if samples is None else self.judge.distance(samples)}


def times_of(data: str, options: Mapping[str, Any], batch: int) -> dict[str, float]:
    """What a turn of one thread costs: ``step_seconds``, and ``sample_seconds`` of each row; bytes per second of an
    update. From processor time with a batch and an eighth of it.
    """
    rows = load(data)
    model = GAN.for_data(rows, **options)
    parameters, gradients, buffers = model.layout.zeros(), model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 0, Statistics(rows))
    given = np.empty((batch, rows.features), dtype=np.float32)
    rows.read(np.arange(batch), given)
    few, many = max(1, batch // 8), batch
    taken: dict[int, list[float]] = {few: [], many: []}
    for step in range(ROUNDS + 1):
        for count, found in taken.items():
            begin = time.process_time()
            for number, phase in enumerate(("discriminator", "generator")):
                model.gradient(parameters, gradients, buffers, Batch(given[:count], np.arange(count), step=step,
                                                                     turn=number, phase=phase))
            found.append((time.process_time() - begin) / 2)
    short, long = (min(found[1:]) for found in taken.values())
    each = (long - short) / (many - few)
    rule = optimizer_of("adam", {}, 1, 1.0, {})
    state = [model.layout.zeros() for _ in rule.state_names]
    updates = []
    for step in range(ROUNDS):
        begin = time.process_time()
        rule.update(parameters, gradients, state, [(0, len(parameters), False)], scale=1.0, step=step, clock=step)
        updates.append(time.process_time() - begin)
    update = min(updates)
    return {"step_seconds": max(0.0, short - few * each), "sample_seconds": each,
            "worker_update_bandwidth": parameters.nbytes / update, "update_bandwidth": parameters.nbytes / update}


def simulated(judge: Judge, settings: Mapping[str, Any], workers: int, times: Mapping[str, Any]) -> Curve:
    """Of so many workers, by the clock of such a machine."""
    rows, batch, epochs = load(settings["data"]), settings["batch"], settings["epochs"]
    model = Judged.made(judge, rows, settings["model"])
    given = dict(settings["strategy"])
    chosen = strategy(given.pop("strategy"), **given)
    rule = optimizer_of("adam", settings["rule"], epochs * -(-len(rows) // batch), 1.0)
    found = simulate(model, rows, model.blank, chosen, workers, rule, epochs=epochs, batch_size=batch,
                     seed=settings["seed"], machine=Machine(seed=settings["seed"], **times), points=POINTS)
    return [(point["seconds"], point["test_loss"]) for point in found.curve]


def real(folder: Path, settings: Mapping[str, Any], ranks: int) -> Curve:
    """Of MPI ranks with one thread each, whose classifier is in ``folder``; a point for each epoch."""
    command = [sys.executable, "-c", "import sys; from benchmarks.adversarial_ranks import as_rank; "
               "as_rank(*sys.argv[1:])", str(folder), json.dumps(settings)]
    line, environ = launcher.command(ranks, command, threads=1)
    done = subprocess.run(line, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{settings['strategy']} on {ranks} ranks ended with {done.returncode}:\n"
                           f"{done.stderr[-2000:]}")
    return [(at, distance) for at, distance in json.loads(done.stdout.splitlines()[-1])]


def as_rank(folder: str, settings: str) -> None:
    """Train as one of the ranks; the first prints the curve."""
    given = json.loads(settings)
    rows = load(given["data"])
    model = Judged.made(Judge(Path(folder, "classifier"), load(given["data"], "test")), rows, given["model"])
    chosen = given["strategy"]
    result = Trainer(model, strategy=strategy(chosen.pop("strategy"), **chosen), threads=1, epochs=given["epochs"],
                     batch_size=given["batch"], seed=given["seed"], **given["rule"]).fit(rows, test=model.blank)
    if world().rank == 0:
        seconds = np.cumsum([line["seconds"] for line in result.metrics])
        print(json.dumps([(float(at), line["test_loss"]) for at, line in zip(seconds, result.metrics, strict=True)]))


def seconds_to(curve: Curve, distance: float) -> float | None:
    """Until samples are so near for the first time."""
    return next((seconds for seconds, found in curve if found <= distance), None)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Seconds to as good samples as one process ends with, and what all end with: medians of the seeds."""
    rows = []
    for side in dict.fromkeys(line["side"] for line in lines):
        own = [line for line in lines if line["side"] == side]
        end = statistics.median(line["curve"][-1][1] for line in own if line["ranks"] == own[0]["ranks"])
        for name, ranks in dict.fromkeys((line["name"], line["ranks"]) for line in own):
            curves = [line["curve"] for line in own if (line["name"], line["ranks"]) == (name, ranks)]
            reached = [seconds_to(curve, NEAR * end) for curve in curves]
            found = [each for each in reached if each is not None]
            rows.append([side, name, ranks, f"{statistics.median(curve[-1][1] for curve in curves):.2f}",
                         f"{statistics.median(curve[-1][0] for curve in curves):.1f}",
                         f"{statistics.median(found):.1f}" if len(found) == len(curves) else
                         f"{len(found)} of {len(curves)} seeds"])
    return harness.table(["ranks are", "strategy", "ranks", "distance at the end", "seconds to the end",
                          f"seconds to {NEAR:g} times the first line's"], rows)


def draw(record: Record) -> Path:
    """Distances over seconds, of the first seed."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in record.lines:
        if line["seed"] == 0:
            ranks = "1 rank" if line["ranks"] == 1 else f"{line['ranks']} ranks"
            at, found = zip(*line["curve"], strict=True)
            panels.setdefault(line["side"], {})[f"{line['name']}, {ranks}"] = (list(at), list(found))
    return harness.plot(record.path.with_suffix(".png"), panels, "seconds", "Frechet distance", log="xy", share_y=True)


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, part={"choices": ("all", "simulated", "real"), "default": "all"})
    data, epochs, numbers, seeds = SETTINGS[options.size]
    if data == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    model = dict(DIGITS["all digits"])
    batch, rate, _ = (model.pop(key) for key in ("batch", "rate", "steps"))
    before = _core.threads()
    _core.set_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            judge = Judge(classifier_of(data, folder), load(data, "test"))
            times = times_of(data, model, batch)
            record = Record("adversarial_ranks", options.size, options.out, data=data, model=model, batch=batch,
                            epochs=epochs, rate=rate, times=times)
            sides = {"simulated": [n for n in numbers if options.part != "real"],
                     "real": [n for n in RANKS if options.part != "simulated" and n <= len(cores())]}
            for side, ranks in sides.items():
                for count in ranks:
                    for title, chosen in STRATEGIES.items():
                        if count == 1 and title != "allreduce":
                            continue
                        for seed in range(seeds):
                            settings = {"data": data, "model": model, "batch": batch, "epochs": epochs, "seed": seed,
                                        "strategy": chosen,
                                        "rule": {"learning_rate": rate, "schedule": "cosine",
                                                 "minimum_rate": rate / 100}}
                            curve = (simulated(judge, settings, count, times) if side == "simulated" else
                                     real(folder, settings, count))
                            record.add(side=side, name=title, ranks=count, seed=seed, curve=curve)
                            harness.show(f"{side}, {title}, ranks: {count}, seed {seed}: {curve[-1][1]:.3f} after "
                                         f"{curve[-1][0]:.1f} s")
    finally:
        _core.set_threads(before)
    harness.show(table(record.lines))
    harness.show(f"picture {draw(record)}")
    return record


if __name__ == "__main__":
    main()
