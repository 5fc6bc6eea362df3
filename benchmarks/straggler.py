"""What does one rank that is 3 times slower cost, on real ranks, and does the simulation foresee it?

The autoencoder and the strategies of `benchmarks.asynchronous`, trained by MPI ranks on one node whose gradients sleep
until they have taken a fixed time, and those of the first worker 3 times as long. So the ranks need hardly any of the
cores, and their speeds are known. Beside each time stands that of a simulation of the same machine. Before times are
compared the errors must agree, where a strategy's result does not depend on who comes first.

    python -m benchmarks.straggler [--size quick|node|cluster] [--only "server sync" "server async"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import harness
from benchmarks.asynchronous import SLOWER, STRAGGLER, seconds_to
from benchmarks.harness import Peer, Record
from pyddl.comm.machine import Machine
from pyddl.data import load
from pyddl.models import Autoencoder
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train.simulation import simulate

__all__ = ["main"]

SETTINGS: dict[str, dict[str, Any]] = {  # seconds of a gradient; squared error to reach
    "quick": {"workers": 2, "epochs": 2, "seconds": 0.004, "hidden": (16, 4), "batch": 256, "target": 12.0},
    "node": {"workers": 4, "epochs": 20, "seconds": 0.015, "hidden": (32, 8), "batch": 64, "target": 2.5},
    "cluster": {"workers": 8, "epochs": 40, "seconds": 0.02, "hidden": (32, 8), "batch": 64, "target": 2.2},
}
QUICK = ("server sync", "server async")
ALIKE = 0.02  # how far errors may be apart whose strategy fixes them
DATA = "digits"


def simulated(options: Mapping[str, Any], case: Mapping[str, Any], slower: float) -> list[dict[str, Any]]:
    """Curve of the same training on a virtual clock."""
    own = {name: value for name, value in options.items() if name != "strategy"}
    source = load(DATA)
    machine = Machine(step_seconds=case["seconds"], sample_seconds=0.0, jitter=0.0, straggler=slower,
                      workers_per_node=case["workers"] + 1)
    run = simulate(Autoencoder(source.features, hidden=case["hidden"]), source, source.test or source,
                   strategy(options["strategy"], **own), case["workers"], optimizer("adam"), epochs=case["epochs"],
                   batch_size=case["batch"], machine=machine, points=case["epochs"])
    return run.curve


def both(name: str, peers: Mapping[bool, Peer], case: Mapping[str, Any], slower: float) -> dict[str, Any]:
    """What a training takes to the target and as a whole: on ranks, and in the simulation.

    Raises
    ------
    RuntimeError
        Its errors differ, although the strategy fixes them.
    """
    options = STRAGGLER[name]
    chosen = strategy(options["strategy"], **{key: value for key, value in options.items() if key != "strategy"})
    given = {key: value for key, value in case.items() if key != "target"}
    real = peers[chosen.servers > 0].call("train", strategy=options, data=DATA, slower=slower, **given)[0]
    foreseen = simulated(options, case, slower)
    found: dict[str, Any] = {
        side: {"seconds": seconds_to(curve, case["target"]), "whole": curve[-1]["seconds"],
               "error": curve[-1]["test_squared_error"]}
        for side, curve in (("ranks", real["curve"]), ("simulation", foreseen))}
    if not chosen.tickets:
        harness.verify(f"{name}, last error", [found["simulation"]["error"]], [found["ranks"]["error"]], ALIKE)
    return {**found, "samples": real["samples"]}


def cells(found: Mapping[str, Any]) -> list[str]:
    """Seconds to the target, and of the whole run: on ranks / simulated."""
    return [" / ".join("not reached" if side[what] is None else f"{side[what]:.2f}"
                       for side in (found["ranks"], found["simulation"])) for what in ("seconds", "whole")]


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, only={"nargs": "+", "choices": tuple(STRAGGLER), "default": ()})
    case = SETTINGS[options.size]
    names = options.only or (QUICK if options.size == "quick" else tuple(STRAGGLER))
    rows = []
    with ExitStack() as stack:
        peers = {served: stack.enter_context(harness.mpi_peer("pyddl", "pyddl_slowed", case["workers"] + served))
                 for served in (False, True)}
        record = Record("straggler", options.size, options.out, data=DATA, **case, slower=SLOWER, **peers[True].about)
        for name in names:
            alike, slow = (both(name, peers, case, slower) for slower in (1.0, SLOWER))
            record.add(name=name, alike=alike, slow=slow)
            ratio = [slow[side]["whole"] / alike[side]["whole"] for side in ("ranks", "simulation")]
            rows.append([name, *cells(alike), *cells(slow), " / ".join(f"{each:.2f}" for each in ratio)])
            harness.show(" | ".join(rows[-1]))
    harness.show(harness.table(["ranks / simulation", f"s to {case['target']:g}", "s in all", "one slow", "in all",
                                "times as long"], rows))
    return record


if __name__ == "__main__":
    main()
