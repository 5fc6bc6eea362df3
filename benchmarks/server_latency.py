"""How soon does the parameter server answer a worker, and what does it take while it is idle?

One worker pushes a small vector and fetches the version that it led to: at once after the last, or after a pause in
which the server has gone to sleep; on the server's node, and by messages as between nodes. Beside it, a byte there and
back over a socket between two cores: what it takes here to wake a sleeper. Before anything is timed, three pushes must
add up. Aim: 50 microseconds on a node, and next to no core for an idle server.

    python -m benchmarks.server_latency [--size quick|node|cluster]
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import harness
from benchmarks.harness import Record, Timing

__all__ = ["AIM", "IDLE_AIM", "main"]

AIM = 50e-6  # seconds
IDLE_AIM = 0.01  # of a core
PAUSES = {"in a row": 0.0, "after 5 ms": 0.005}
WAYS = {"node": {}, "messages": {"PYDDL_RANKS_PER_NODE": "1"}}


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    quick = options.size == "quick"
    rounds, count, lengths, idle = (2, 20, (100,), 0.2) if quick else (15, 200, (100, 100_000), 1.0)
    with ExitStack() as stack:
        peers = {
            way: stack.enter_context(harness.mpi_peer(way, "pyddl_server", 2, environ=environ))
            for way, environ in WAYS.items()
        }
        echo = stack.enter_context(harness.python_peer("socket", "socket_echo"))
        record = Record("server_latency", options.size, options.out, ranks=2, threads=1, **peers["node"].about)
        for floats in lengths:
            for way, peer in peers.items():
                peer.call("prepare", floats=floats)
                values = [i % 1000 for i in range(floats)]
                harness.verify(way, [3 * values[-1], 3 * sum(values)], peer.call("check")[1], 1e-6)
            competitors = {**peers, "socket": echo}
            taken: dict[str, list[float]] = {f"{way}, {pause}": [] for way in competitors for pause in PAUSES}
            for _ in range(rounds):
                for way, peer in competitors.items():
                    for pause, seconds in PAUSES.items():
                        trips = peer.call("round_trips", count=count // 4 if seconds else count, pause=seconds)
                        taken[f"{way}, {pause}"] += trips[-1]  # the worker's
            share = {way: peer.call("idle", seconds=idle)[0] for way, peer in peers.items()}
            timings = {name: Timing(seconds) for name, seconds in taken.items()}
            record.add(timings, floats=floats, idle_share=share, aim=AIM)
            for name, timing in timings.items():
                found = {what: 1e6 * seconds for what, seconds in timing.summary().items()}
                harness.show(
                    f"{floats:>7} floats, {name:<20} p50 {found['p50']:8.1f} us   p95 {found['p95']:8.1f} us   "
                    f"min {found['min']:6.1f} us"
                )
            said = [f"{100 * part:.2f} % of a core ({way})" for way, part in share.items()]
            harness.show(f"an idle server takes {', '.join(said)}")
    curves = {what: (list(lengths), [1e6 * line["seconds"][what]["p50"] for line in record.lines]) for what in taken}
    harness.plot(record.path.with_suffix(".png"), {"push to fetch": curves}, "floats", "microseconds")
    return record


if __name__ == "__main__":
    main()
