"""What a training says of itself: its first lines, ``config.toml`` and ``summary.json``."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from pyddl import _core, _own, options
from pyddl.comm import threads
from pyddl.comm.transport import Transport
from pyddl.data import spec
from pyddl.models.protocol import name_of
from pyddl.strategies import given as strategies
from pyddl.strategies.auto import Choice
from pyddl.train.calendar import Span
from pyddl.train.ledger import Ledger
from pyddl.train.plan import Plan
from pyddl.train.run import ROWS
from pyddl.train.signs import standing
from pyddl.train.timing import PARTS

__all__ = ["Spent", "by_part", "config", "stage", "summary", "title"]

NOT_RECORDED = ("overwrite", "resume",  # of no concern to who makes the run again or goes on with it
                "strategy_options")  # as the strategy itself says
SPECIFIED = ("data", "labels", "test", "test_labels")  # options that say where data are
PEAK_SECONDS = 0.2  # how long the machine's own matrix-product peak is measured at the end


@dataclass
class Spent:
    """What a session has taken.

    Attributes
    ----------
    seconds : dict of float
        Of the whole run in parts, mean over the ranks.
    per_rank : list of ndarray
        Of the whole run, for each rank, in the order of `PARTS`: of the sessions that had a rank of its number.
    taken : float
        Of this session, mean over the ranks.
    steps, samples : int
        Of this session.
    bytes_sent : int
        By this rank.
    """

    seconds: Mapping[str, float]
    per_rank: Sequence[np.ndarray]
    taken: float
    steps: int
    samples: int
    bytes_sent: int


def by_part(per_rank: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Each rank's seconds under the names of `PARTS`."""
    return [dict(zip(PARTS, each.tolist(), strict=True)) for each in per_rank]


def title(plan: Plan, ledger: Ledger, choice: Choice | None, placements: list[threads.Placement]) -> str:
    """What is about to be trained, on what, and how, as lines."""
    ranks = "1 rank" if plan.world.size == 1 else f"{plan.world.size} ranks"
    groups = "" if plan.division.parts == 1 else f", {plan.division.parts} to each copy of the model"
    lines = [
        f"{name_of(plan.model)}, {plan.whole_model.layout.count:,} parameters, on {plan.data.describe()}",
        f"{plan.strategy} on {ranks}{groups}, batches of {plan.options['batch_size']}, {_rules(plan)}",
        *_stages(plan),
        *_shared_out(plan),
        *([choice.text()] if choice else []),
        *threads.describe(placements),
        *(f"warning: {text}" for text in threads.warnings(placements))]
    if plan.strategy.servers:
        lines.append(_servers(plan))
    idle = plan.strategy.idle(plan.division.count)
    if idle:
        count = plan.strategy.replicas
        lines.append(f"warning: {'ranks' if len(idle) > 1 else 'rank'} {', '.join(map(str, idle))} will be idle: "
                     f"{plan.strategy.name} has {count} replica{'s' if count != 1 else ''}")
    if ledger.step:
        lines.append(f"going on after step {ledger.step} of {plan.end}")
    elif plan.options["resume"]:
        lines.append("no checkpoint yet: starting from the beginning")
    return "\n".join(lines)


def _shared_out(plan: Plan) -> list[str]:
    """What of a split model its ranks share, where that is not nearly all."""
    parts, whole = plan.division.parts, plan.whole_model.layout
    if parts == 1:
        return []
    alike = sum(s.size for s in whole if plan.model.layout[s.name].of is None)
    if alike < 0.01 * whole.count:
        return []
    return [f"split: each of {parts} ranks holds a part of {whole.count - alike:,} parameters, and {alike:,} whole, "
            "whose layers it computes as the others do"]


def _stages(plan: Plan) -> list[str]:
    """What is trained when, where that is not everything all the time."""
    spans = plan.calendar.spans
    if len(spans) == 1 and len(spans[0].stage.phases) == 1:
        return []
    return [stage(span, len(spans)) for span in spans]


def stage(span: Span, count: int) -> str:
    """What one of so many stages trains, and until when."""
    phases = ", ".join(phase.name if phase.every == 1 else f"{phase.name} every {phase.every} steps"
                       for phase in span.stage.phases)
    return f"stage {span.number + 1} of {count}: {phases}, to epoch {span.last_epoch + 1}"


def _rules(plan: Plan) -> str:
    """The optimizers at work, for people."""
    if not plan.strategy.servers or plan.server_optimizer.name == plan.optimizer.name:
        return plan.optimizer.name
    between = f", {plan.optimizer.name} between fetches" if plan.strategy.optimizes else ""
    return f"{plan.server_optimizer.name} on the server{'s' * (plan.strategy.servers > 1)}{between}"


def _servers(plan: Plan) -> str:
    """Who does what."""
    def ranks(first: int, count: int) -> str:
        return f"rank {first}" if count == 1 else f"ranks {first} to {first + count - 1}"

    servers, workers = plan.strategy.servers, plan.workers
    return (f"{ranks(0, servers)} {'serves' if servers == 1 else 'serve'}, "
            f"{ranks(servers, workers)} {'computes' if workers == 1 else 'compute'}")


def config(plan: Plan, choice: Choice | None) -> dict[str, Any]:
    """What ``config.toml`` holds: with it, the same run can be made again."""
    rows = {"columns": plan.data.columns, "image_shape": plan.data.image_shape}
    whole = {"model": name_of(plan.model), **_from_anywhere(plan.config), **strategies.recorded(plan.strategy),
             "ranks": plan.world.size, "optimizer": plan.optimizer.name,
             **{name: value for name, value in plan.options.items() if name not in NOT_RECORDED},
             "threads": _core.threads(), ROWS: {**{name: list(value) for name, value in rows.items() if value},
                                                    **_scaling(plan)} or None,
             "auto": choice and choice.record()}
    return whole


def _from_anywhere(given: Mapping[str, Any]) -> dict[str, Any]:
    """These options with paths that are right in any working directory."""
    kinds = {option.name: option.kind for option in options.of_section("model")}
    return {name: value if value is None else spec.from_anywhere(value) if name in SPECIFIED
            else os.path.abspath(value) if kinds.get(name) == "run"
            else _own.anywhere(value) if name == "module" else value for name, value in given.items()}


def _scaling(plan: Plan) -> dict[str, Any]:
    """What the rows were scaled by, as plain values."""
    return {} if plan.data.scaling is None else {"scaling": plan.data.scaling.record()}


def _one_gradient(plan: Plan) -> bool:
    """Whether each step is one gradient of all slices, whose operations ``model.flops`` counts."""
    phases = [phase for span in plan.calendar.spans for phase in span.stage.phases]
    return len(phases) == 1 and plan.model.layout.range_of(phases[0].groups) == (0, plan.model.layout.size)


def summary(plan: Plan, ledger: Ledger, spent: Spent, transport: Transport, *, choice: Choice | None, stopped: bool,
            server: Mapping[str, Any] | None) -> dict[str, Any]:
    """What ``summary.json`` holds. Collective."""
    last: dict[str, Any] = ledger.metrics[-1] if ledger.metrics else {}
    model = plan.model
    samples_per_second = ledger.samples / sum(spent.seconds.values()) if ledger.samples else None
    peak = reached = None
    sent = float(np.mean([x[0] for x in transport.gather(np.array([spent.bytes_sent / max(1, spent.steps)]))]))
    if plan.out is not None and getattr(model, "flops", None) and samples_per_second and _one_gradient(plan):
        transport.barrier()  # all ranks at once, as in training
        peak = float(sum(x[0] for x in transport.gather(
            np.array([_core.product_peak(getattr(model, "dtype", "float32"), PEAK_SECONDS)]))))
        reached = model.flops * samples_per_second / 1e9  # type: ignore[attr-defined]
    figures = {name: value for name, value in last.items() if name.startswith(("train_", "test_"))}
    return {
        "model": name_of(model), "strategy": plan.strategy.name, "ranks": plan.world.size,
        "split": plan.division.parts, "stage": ledger.stage,
        "threads": _core.threads(), "parameters": plan.whole_model.layout.count, "epochs": len(ledger.metrics),
        **{"train_loss": None, "test_loss": None, "test_squared_error": None, **figures},
        "samples_per_second": samples_per_second, "time": spent.seconds, "bytes_per_step": sent,
        "auto": choice and choice.beside(spent.taken, spent.samples, plan.world.size),
        "time_per_rank": by_part(spent.per_rank),
        "gflops": reached, "peak_gflops": peak, "machine": platform.node(), "server": server, "deaths": ledger.deaths,
        "simd_level": _core.simd_level(), "onednn": _core.onednn_version(), "stopped_early": ledger.patience.over,
        "warnings": standing(ledger.metrics),
        "finished": None if stopped else datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
