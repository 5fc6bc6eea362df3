"""How far are samples of an adversarial pair from held-out rows after how many seconds, on how many ranks, under which
strategy?

The pair of all digits of `benchmarks.adversarial` (of scikit-learn's digits in size quick), trained for some numbers of
epochs, each with a whole schedule; the distance at the end is Frechet's in the features of a classifier. Real ranks are
of this machine, one thread each; simulated ones do the arithmetic of so many on a clock whose times of a gradient and
an update are measured here first, over a network of 10 Gbit/s. Servers are among the real ranks, and beside simulated
ones. Seconds are without evaluations; where other work fills the machine, those of real ranks say little.

    python -m benchmarks.adversarial_ranks [--size quick|node|cluster] [--part all|simulated|real]
"""

from __future__ import annotations

import itertools
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

ROUNDS = 15  # of which each time is the least: other work only adds to it
STRATEGIES: dict[str, dict[str, Any]] = {
    "allreduce": {"strategy": "allreduce"},
    "averaging, period 16": {"strategy": "averaging", "period": 16},
    "server, async": {"strategy": "server", "mode": "async"},
}
SETTINGS = {  # data, numbers of epochs, simulated workers, seeds
    "quick": ("digits", (2,), (2,), 1),
    "node": ("mnist", (1, 2, 4), (1, 8), 5),
    "cluster": ("mnist", (2, 4, 8), (1, 2, 8, 32), 5),
}
RANKS = (1, 2)

Ending = tuple[float, float]  # seconds, distance


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


def simulated(judge: Judge, settings: Mapping[str, Any], workers: int, times: Mapping[str, Any]) -> Ending:
    """Of so many workers, by the clock of such a machine."""
    rows, batch, epochs = load(settings["data"]), settings["batch"], settings["epochs"]
    model = Judged.made(judge, rows, settings["model"])
    given = dict(settings["strategy"])
    chosen = strategy(given.pop("strategy"), **given)
    rule = optimizer_of("adam", settings["rule"], epochs * -(-len(rows) // batch), 1.0)
    found = simulate(model, rows, model.blank, chosen, workers, rule, epochs=epochs, batch_size=batch,
                     seed=settings["seed"], machine=Machine(seed=settings["seed"], **times), points=1)
    return found.seconds, found.curve[-1]["test_loss"]


def real(folder: Path, settings: Mapping[str, Any], ranks: int) -> Ending:
    """Of MPI ranks with one thread each, whose classifier is in ``folder``."""
    command = [sys.executable, "-c", "import sys; from benchmarks.adversarial_ranks import as_rank; "
               "as_rank(*sys.argv[1:])", str(folder), json.dumps(settings)]
    line, environ = launcher.command(ranks, command, threads=1)
    done = subprocess.run(line, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{settings['strategy']} on {ranks} ranks ended with {done.returncode}:\n"
                           f"{done.stderr[-2000:]}")
    seconds, distance = json.loads(done.stdout.splitlines()[-1])
    return seconds, distance


def as_rank(folder: str, settings: str) -> None:
    """Train as one of the ranks; the first prints the ending."""
    given = json.loads(settings)
    rows = load(given["data"])
    model = Judged.made(Judge(Path(folder, "classifier"), load(given["data"], "test")), rows, given["model"])
    chosen = given["strategy"]
    result = Trainer(model, strategy=strategy(chosen.pop("strategy"), **chosen), threads=1, epochs=given["epochs"],
                     batch_size=given["batch"], seed=given["seed"], **given["rule"]).fit(rows, test=model.blank)
    if world().rank == 0:
        print(json.dumps([sum(line["seconds"] for line in result.metrics), result.metrics[-1]["test_loss"]]))


def endings(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[list[Ending]]]:
    """Those of the seeds for each number of epochs, by where ranks are and by strategy and ranks."""
    found: dict[tuple[str, str], dict[int, list[Ending]]] = {}
    for line in lines:
        key = line["side"], f"{line['name']}, {line['ranks']} rank{'s' if line['ranks'] > 1 else ''}"
        found.setdefault(key, {}).setdefault(line["epochs"], []).append((line["seconds"], line["distance"]))
    return {key: list(by_epochs.values()) for key, by_epochs in found.items()}


def median(ending: Sequence[Ending]) -> Ending:
    """Of seconds, and of distances."""
    seconds, distances = zip(*ending, strict=True)
    return statistics.median(seconds), statistics.median(distances)


def cell(ending: Sequence[Ending]) -> str:
    """Such as ``1.7 (1.5 to 1.9) in 17.8 s``."""
    seconds, distance = median(ending)
    least, most = min(distance for _, distance in ending), max(distance for _, distance in ending)
    spread = f" ({least:.1f} to {most:.1f})" if len(ending) > 1 else ""
    return f"{distance:.1f}{spread} in {seconds:.1f} s"


def draw(record: Record) -> Path:
    """Distances over seconds."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for (side, name), found in endings(record.lines).items():
        medians = [median(ending) for ending in found]
        panels.setdefault(side, {})[name] = ([seconds for seconds, _ in medians], [distance for _, distance in medians])
    return harness.plot(record.path.with_suffix(".png"), panels, "seconds", "Frechet distance", log="y", share_y=True)


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
            runs = itertools.product(sides.items(), STRATEGIES.items(), epochs, range(seeds))
            for (side, ranks), (title, chosen), each, seed in runs:
                settings = {"data": data, "model": model, "batch": batch, "epochs": each, "seed": seed,
                            "strategy": chosen, "rule": {"learning_rate": rate, "schedule": "cosine",
                                                         "minimum_rate": rate / 100}}
                for count in ranks:
                    if count == 1 and title != "allreduce":
                        continue
                    seconds, distance = (simulated(judge, settings, count, times) if side == "simulated" else
                                         real(folder, settings, count))
                    record.add(side=side, name=title, ranks=count, epochs=each, seed=seed, seconds=seconds,
                               distance=distance)
                    harness.show(f"{side}, {title}, ranks: {count}, epochs: {each}, seed {seed}: {distance:.3f} after "
                                 f"{seconds:.1f} s")
    finally:
        _core.set_threads(before)
    head = ["ranks are", "strategy", *(f"{each} epoch{'s' if each > 1 else ''}" for each in epochs)]
    rows = [[side, name, *map(cell, found)] for (side, name), found in endings(record.lines).items()]
    harness.show(harness.table(head, rows))
    harness.show(f"picture {draw(record)}")
    return record


if __name__ == "__main__":
    main()
