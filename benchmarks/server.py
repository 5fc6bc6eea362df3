"""How fast do two workers train by an asynchronous parameter server, against TensorFlow's ParameterServerStrategy?

Two autoencoders, Adam on the server, 128 rows per worker and step, one thread per process. pyddl has rank 0 as the
server and two workers; TensorFlow a parameter server, two workers, and the coordinator that it needs (it has its own
environment, which ``make bench`` makes). Beside them two ranks of pyddl that send nothing: what the machine gives two
workers. Before anything is timed both sides must begin at the same loss, over all rows, and reach about the same after
as many steps: asynchronous runs are not equal to the bit.

By the processor's clock (for a machine that other work fills) a side's time is that of all its processes together,
spread over the cores: what it would take alone there if it always kept all cores busy. pyddl's then includes all that
a call of the trainer does before and after training.

    python -m benchmarks.server [--size quick|node|cluster] [--networks 784-64-784,...] [--clock wall|cpu]
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Peer, Record
from benchmarks.peers.line import CLOCK
from benchmarks.step import CLOCKS, NETWORKS, Case

__all__ = ["AIM", "main"]

AIM = 4.0
WORKERS, BATCH = 2, 128
SERVER = {"async": {"strategy": "server", "mode": "async", "workers": WORKERS}}
ALONE = {"local": {"strategy": "local", "workers": WORKERS}}
STEPS = 128  # of each worker in a pass over the rows
PASSES = 3  # before results are compared, and TensorFlow's workers have cached all rows
FALLEN, ALIKE = 0.6, 0.25  # the loss at most, of the first one; and how far the sides may be apart


def verify(case: Case, sides: Mapping[str, tuple[Peer, str]], steps: int) -> dict[str, list[float]]:
    """First and last loss of each side.

    Raises
    ------
    RuntimeError
        They differ too much, or did not fall.
    """
    losses = {}
    for name, (peer, setup) in sides.items():
        first = peer.call("loss", setup=setup)[0]
        peer.call("train", setup=setup, count=steps)
        losses[name] = [first, peer.call("loss", setup=setup)[0]]
    firsts, lasts = zip(*losses.values(), strict=True)
    for name, last in zip(losses, lasts, strict=True):
        harness.verify(f"{case.network}, first loss of {name}", firsts[:1], [losses[name][0]], 1e-5)
        harness.verify(f"{case.network}, last loss of {name}", lasts[:1], [last], ALIKE)
        if not last < FALLEN * firsts[0]:
            raise RuntimeError(f"{case.network}: not timed, for the loss of {name} went from {firsts[0]} to {last}")
    return losses


def measure(case: Case, ours: Peer, alone: Peer, theirs: Peer | None, record: Record, rounds: int, seconds: float,
            steps: int) -> None:
    """Verify, then time one network; one record."""
    about = case.prepare(ours, SERVER)
    case.prepare(alone, ALONE)
    sides = {"pyddl": (ours, "async")}
    if theirs is not None:
        case.prepare(theirs, SERVER)
        sides["TensorFlow"] = (theirs, "async")
    losses = verify(case, sides, steps)
    competitors = {name: peer.timer(setup) for name, (peer, setup) in sides.items()}
    timings = harness.in_turn(competitors | {"pyddl local": alone.timer("local")}, rounds, seconds)
    faster = {name: harness.speed_up(timings["pyddl"], timings[name]) for name in sides if name != "pyddl"}
    share = harness.speed_up(timings["pyddl"], timings["pyddl local"])
    record.add(timings, network=case.network, batch=BATCH, workers=WORKERS, **about, losses=losses, speed_up=faster,
               share_of_local=share)
    said = [case.network, f"pyddl {WORKERS * BATCH / timings['pyddl'].median:,.0f}/s",
            f"{share:.0%} of two ranks that send nothing", *(f"{value:.2f}x {name}" for name, value in faster.items())]
    harness.show("; ".join(said))


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__,
        given,
        networks={"default": None},
        clock=CLOCKS,
        peer={"choices": ("tensorflow", "none"), "default": "tensorflow" if harness.TENSORFLOW.exists() else "none"},
    )
    clock = {CLOCK: options.clock}
    quick = options.size == "quick"
    networks = options.networks.split(",") if options.networks else NETWORKS[:1] if quick else NETWORKS[:2]
    rounds, seconds = (2, 0.05) if quick else (7, 1.5)
    steps = 16 if quick else STEPS
    rows, origin = harness.mnist_rows(steps * WORKERS * BATCH)
    theirs = None
    with (
        tempfile.TemporaryDirectory() as folder,
        harness.mpi_peer("pyddl", "pyddl_train", WORKERS + 1, environ=clock) as ours,
        harness.mpi_peer("pyddl alone", "pyddl_train", WORKERS, environ=clock) as alone,
    ):
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        try:
            if options.peer == "tensorflow":
                theirs = harness.python_peer("TensorFlow", "tensorflow_server", python=harness.TENSORFLOW,
                                             patience=120, environ=clock)
            record = Record("server", options.size, options.out, rows=origin, clock=options.clock, **ours.about,
                            tensorflow=theirs.about["tensorflow"] if theirs else None)
            for network in networks:
                case = Case(network, BATCH, file, Path(folder))
                measure(case, ours, alone, theirs, record, rounds, seconds, PASSES * steps)
        finally:
            if theirs is not None:
                theirs.close()
    sizes = [line["parameters"] for line in record.lines]
    curves = {name: (sizes, [WORKERS * BATCH / line["seconds"][name]["p50"] for line in record.lines])
              for name in record.lines[0]["seconds"]}
    harness.plot(record.path.with_suffix(".png"), {f"{WORKERS} workers": curves}, "parameters", "samples/s")
    return record


if __name__ == "__main__":
    main()
