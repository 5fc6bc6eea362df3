"""What a session says of itself: its first lines, ``config.toml`` and ``summary.json``."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl import _core
from pyddl.comm import threads
from pyddl.models.protocol import name_of
from pyddl.train.timing import PARTS

if TYPE_CHECKING:
    from pyddl.train.session import Session

__all__ = ["config", "summary", "title"]

PEAK_SECONDS = 0.2  # how long the machine's own matrix-product peak is measured at the end


def title(session: Session, placements: list[threads.Placement]) -> str:
    """What is about to be trained, on what, and how, as lines."""
    ranks = "1 rank" if session.world.size == 1 else f"{session.world.size} ranks"
    groups = "" if session.division.parts == 1 else f", {session.division.parts} to each copy of the model"
    lines = [
        f"{name_of(session.model)}, {session.whole_model.layout.count:,} parameters, on {session.data.describe()}",
        f"{session.strategy} on {ranks}{groups}, batches of {session.options['batch_size']}, {_rules(session)}",
        *([session.choice.text()] if session.choice else []),
        *threads.describe(placements),
        *(f"warning: {text}" for text in threads.warnings(placements))]
    if session.serving is not None:
        lines.append(session.serving.title())
    idle = session.strategy.idle(session.division.count)
    if idle:
        count = session.strategy.replicas
        lines.append(f"warning: {'ranks' if len(idle) > 1 else 'rank'} {', '.join(map(str, idle))} will be idle: "
                     f"{session.strategy.name} has {count} replica{'s' if count != 1 else ''}")
    if session.step:
        lines.append(f"going on after step {session.step} of {session.steps}")
    elif session.options["resume"]:
        lines.append("no checkpoint yet: starting from the beginning")
    return "\n".join(lines)


def _rules(session: Session) -> str:
    """The optimizers at work, for people."""
    if session.serving is None or session.serving.optimizer.name == session.optimizer.name:
        return session.optimizer.name
    between = f", {session.optimizer.name} between fetches" if session.strategy.optimizes else ""
    return f"{session.serving.optimizer.name} on the server{'s' * (session.strategy.servers > 1)}{between}"


def config(session: Session) -> dict[str, Any]:
    """What ``config.toml`` holds: with it, the same run can be made again."""
    whole = {"model": name_of(session.model), **session.config, "strategy": session.strategy.name,
             "ranks": session.world.size, "optimizer": session.optimizer.name, **session.options,
             "threads": _core.threads(), "auto": session.choice and session.choice.record()}
    return {name: value for name, value in whole.items() if name not in ("overwrite", "resume")}


def summary(session: Session, stopped: bool) -> dict[str, Any]:
    """What ``summary.json`` holds. Collective."""
    last: dict[str, Any] = session.metrics[-1] if session.metrics else {}
    model = session.model
    seconds, per_rank = session.seconds()
    samples = session.sampler.consumed(session.step) if session.serving is None else session.serving.trained()
    samples_per_second = samples / sum(seconds.values()) if samples else None
    peak = reached = None
    steps = max(1, session.step - session.first_step)
    sent = float(np.mean([x[0] for x in session.transport.gather(np.array([session.clock.bytes_sent / steps]))]))
    if session.checkpoints is not None and getattr(model, "flops", None) and samples_per_second:
        session.transport.barrier()  # all ranks at once, as in training
        peak = float(sum(x[0] for x in session.transport.gather(
            np.array([_core.product_peak(getattr(model, "dtype", "float32"), PEAK_SECONDS)]))))
        reached = model.flops * samples_per_second / 1e9  # type: ignore[attr-defined]
    trained = samples - session.sampler.consumed(session.first_step)
    taken = float(np.mean(np.sum(per_rank, axis=1)))
    auto = session.choice and session.choice.beside(taken, trained, session.world.size)
    return {
        "model": name_of(model), "strategy": session.strategy.name, "ranks": session.world.size,
        "split": session.division.parts,
        "threads": _core.threads(), "parameters": session.whole_model.layout.count, "epochs": len(session.metrics),
        "train_loss": last.get("train_loss"), "test_loss": last.get("test_loss"),
        "test_squared_error": last.get("test_squared_error"), "samples_per_second": samples_per_second,
        "time": seconds, "bytes_per_step": sent, "auto": auto,
        "time_per_rank": [dict(zip(PARTS, each.tolist(), strict=True)) for each in per_rank],
        "gflops": reached, "peak_gflops": peak, "machine": platform.node(),
        "server": None if session.serving is None else session.serving.summary(), "deaths": session.deaths,
        "simd_level": _core.simd_level(), "onednn": _core.onednn_version(), "stopped_early": session.patience.over,
        "finished": None if stopped else datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
