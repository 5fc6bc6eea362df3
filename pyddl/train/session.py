"""Session: one training, from the vectors' first values to the summary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.comm import abort, threads
from pyddl.comm.activity import Activity
from pyddl.comm.driver import drive
from pyddl.comm.transport import Transport
from pyddl.comm.world import narrowed
from pyddl.errors import NotFiniteError, StrategyError
from pyddl.strategies import Steps
from pyddl.strategies.auto import Choice
from pyddl.train import records, signs
from pyddl.train.calendar import Span
from pyddl.train.checkpoint import Saved
from pyddl.train.connection import Connection, who_died
from pyddl.train.divergence import Divergence
from pyddl.train.evaluation import evaluate, exact_sum, scores_of
from pyddl.train.fences import Fence, ServedFence
from pyddl.train.ledger import Ledger
from pyddl.train.plan import Plan
from pyddl.train.progress import Progress
from pyddl.train.replica import NOT_FINITE_CURE, not_finite
from pyddl.train.result import Result
from pyddl.train.run import write_model
from pyddl.train.server import Server
from pyddl.train.start import go_on, initialise, restore
from pyddl.train.stop import StopRequest
from pyddl.train.tensors import Gathered
from pyddl.train.timing import PARTS, TimeSplit
from pyddl.train.watchdog import Watchdog
from pyddl.train.whole import Whole
from pyddl.train.worker import Worker

__all__ = ["Session"]


class Session:
    """A plan being carried out: it makes this rank's replica, drives it from stage to stage, and gathers what the
    ledger writes down.

    Parameters
    ----------
    plan : Plan
    progress : Progress
    stop : StopRequest
    start : Result, optional
        What to go on from.
    before : Session, optional
        One some of whose ranks have died, in whose place this one goes on.
    """

    def __init__(self, plan: Plan, progress: Progress, stop: StopRequest, start: Result | None = None,
                 before: Session | None = None):
        self.plan, self.start, self.choice = plan, start, plan.choice
        self.progress = progress if plan.world.rank == 0 else Progress()
        self.activity = Activity()
        self.ledger = Ledger(plan, self.progress)
        self.connection, self._asked = Connection(plan, self.activity, stop), stop
        self.divergence = Divergence(self.connection, stop, lambda: self.ledger.step)
        self._ran = False  # any stage
        self._saved: tuple[int, int] | None = None  # after which step and row
        self.resumes = plan.options["resume"] and before is None  # the start is newer than any checkpoint
        if before is not None:
            self.ledger.directory, self.ledger.deaths = before.ledger.directory, before.ledger.deaths

    def open(self) -> None:
        """Make the run directory, on rank 0. To be called once no rank has found a fault."""
        self.ledger.open(records.config(self.plan, self.choice))

    def run(self) -> Result:
        """Train to the end, or to the stop. Collective."""
        try:
            with self._watched(), self.connection.opened():
                return self._train()
        except SystemExit as leaving:
            if self.plan.world.size > 1 and not narrowed():  # else it leaves the block of `use`, as other errors do
                abort.leave(leaving.code)
            raise

    def _train(self) -> Result:
        plan, ledger, connection = self.plan, self.ledger, self.connection
        if ledger.checkpoints is not None:
            ledger.checkpoints.group = plan.division.group
        self.replica = self._server() if plan.world.rank < plan.strategy.servers else self._worker()
        self.replica.diverged = self.divergence.found
        self.fence = self._fence()
        self.whole = Whole(plan, connection, self.replica, self.fence)
        group = plan.division.group
        self._start()
        self.clock = TimeSplit(self.replica, model_group=group)  # nothing is counted before a stage runs
        first_step, first_samples = ledger.step, ledger.samples
        placements = connection.transport.gather_objects(
            threads.here(plan.world.rank, plan.world.node, _core.threads()))
        self.progress.begin(records.title(plan, ledger, self.choice, placements), plan.epochs,
                            plan.sampler.steps_per_epoch, ledger.step)
        self._asked.begin()
        try:
            self._stages()
        finally:
            self.progress.end()
        self._check_finite(f"after step {ledger.step}")
        stopped = ledger.step < plan.end and not ledger.patience.over
        if self.goes_on:
            self.whole.settle()
            seconds, per_rank, _ = self.seconds()
            return self._result({"time": seconds, "time_per_rank": records.by_part(per_rank), "split": 1,
                                 "stage": ledger.stage}, self.whole.state())
        if stopped and self._saved != (ledger.step, ledger.row):
            self.save()
        self.whole.settle()
        state = self.whole.state_here()
        averaged, buffers = self.whole.averaged(), self.replica.buffers_as_one()
        self.activity.begin("the summary")
        server = self.fence.summary()
        spent = records.Spent(*self.seconds(), ledger.step - first_step, ledger.samples - first_samples,
                              self.clock.bytes_sent)
        summary = records.summary(plan, ledger, spent, connection.transport, choice=self.choice, stopped=stopped,
                                  server=server)
        if isinstance(self.fence, ServedFence):
            self.fence.close()
        if ledger.checkpoints is not None:
            with self.activity.files("writing the model"):  # begun on every rank: debug mode compares how much each has
                if plan.division.number == 0:
                    write_model(ledger.checkpoints.folder.parent, plan.model, self.replica.whole, averaged, buffers,
                                group)
                if ledger.directory is not None:
                    ledger.directory.summary(summary)
            self.activity.begin("the end")
            connection.transport.barrier()  # whoever goes on finds the run directory complete; the dead do not come
        return self._result(summary, state, averaged, buffers)

    def _result(self, summary: dict[str, Any], state: Mapping[str, np.ndarray], averaged: np.ndarray | None = None,
                buffers: np.ndarray | None = None) -> Result:
        replica = self.replica
        return Result(self.plan.model, replica.whole, replica.buffers_as_one() if buffers is None else buffers,
                      self.ledger.metrics, summary, state, {each.name: each.updates for each in replica.phases},
                      replica.whole if averaged is None else averaged)

    # ---- what this rank is

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within the block, ranks that wait for one another for ever are found out. Collective."""
        limit, world = self.plan.options["timeout"], self.plan.world
        if limit == 0 or world.size == 1:  # nobody waits for a rank alone
            yield
            return
        with tempfile.TemporaryDirectory(prefix="pyddl-", ignore_cleanup_errors=True) as spare:  # others may be writing
            folder = spare if self.plan.out is None else Path(self.plan.out, "log").absolute()
            folder = self.connection.transport.gather_objects(folder)[0]
            with Watchdog(self.activity, folder, world.rank, world.size, limit):
                yield

    def _server(self) -> Server:
        plan, rank = self.plan, self.plan.world.rank
        server = Server(plan.model, plan.sampler, number=rank, count=plan.strategy.servers, workers=plan.workers,
                        seed=plan.options["seed"], kept=plan.strategy.replicated)
        server.on_publish = lambda: self.progress.step(self.plan.calendar.spans[self.ledger.stage].first + server.steps)
        return server

    def _worker(self) -> Worker:
        """This rank's worker; what is summed over the ranks in each step lies in memory that they share. Collective."""
        plan, division, between = self.plan, self.plan.division, self.connection.between
        strategy, layout, servers = plan.strategy, plan.model.layout, plan.strategy.servers
        worker = Worker(
            plan.model, plan.sampler, number=division.number - servers, count=plan.workers, rank=plan.world.rank,
            seed=plan.options["seed"], reproducible=plan.options["reproducible"], vectors=strategy.vectors,
            joint=strategy.joint, together=strategy.together, updates_only=strategy.updates_only,
            sharded=strategy.shards, kept=not (servers and strategy.replicated), counted=division.part == 0,
            gradients=between.allocate(layout.size, "gradients") if strategy.synchronous else None,
            parameters=between.allocate(layout.size, "parameters") if strategy.shards else None,
            batch_sum=self._sum_over_batch if strategy.synchronous else None, group=division.group)
        if strategy.sums_gradients and not plan.options["reproducible"]:
            worker.travels = between.travelling
        if strategy.replicas is not None:
            worker.host(strategy.replicas)
        return worker

    def _fence(self) -> Fence | ServedFence:
        plan, shared = self.plan, (self.plan, self.ledger, self.connection)
        if plan.strategy.servers:
            return ServedFence(*shared, self.replica, self.close_epoch, lambda: self.whole.settle(), self.outlive)
        assert isinstance(self.replica, Worker)
        return Fence(*shared, self.replica, self.close_epoch)

    def _role(self) -> Steps:
        """What this rank does in a stage."""
        if isinstance(self.replica, Server):
            return self.plan.strategy.server(self.replica)
        return self.plan.strategy.worker(self.replica)

    def _sum_over_batch(self, vector: np.ndarray) -> np.ndarray:
        self.activity.begin("Sum over the batch")
        self.connection.between.sum(vector)
        return vector

    # ---- stages

    @property
    def span(self) -> Span:
        return self.plan.calendar.spans[self.ledger.stage]

    def _stages(self) -> None:
        """Train from stage to stage: to the end, to a stop, or until ranks have died."""
        plan, ledger, stop = self.plan, self.ledger, self.connection.stop
        while True:
            self._begin()
            if ledger.step < min(self.span.end, plan.end) or not self._ran:
                self._run_stage()  # at least once: without servers nobody could settle
            if self.connection.smaller:
                return
            last = self.span.number == len(plan.calendar.spans) - 1
            if ledger.patience.over and not last:  # the stage is over, not training
                ledger.step, stop.agreed = plan.calendar.spans[self.span.number + 1].first, False
            if last or stop.agreed or ledger.step >= plan.end:
                return
            self.whole.settle()
            self.replica.take_buffers(self.replica.buffers_as_one())
            self._enter(self.span.number + 1)
            self.save()

    def _enter(self, stage: int) -> None:
        self.ledger.enter(stage)
        self._renew()

    def _renew(self) -> None:
        """Vectors of the stage's optimizers and of the strategy are new."""
        self.replica.enter(self.span.stage, self.plan.rules(self.span, served=isinstance(self.replica, Server)))

    def _begin(self) -> None:
        """Let the model do what it does at the stage's start, unless that has been done. Collective."""
        if self.ledger.begun:
            return
        plan, replica = self.plan, self.replica
        if self.span.stage.begin is not None:
            buffers = replica.buffers_as_one()
            self.span.stage.begin(replica.whole, buffers, plan.options["seed"], plan.statistics())
            if plan.strategy.joint:
                self.connection.between.broadcast(replica.whole)
                self.connection.between.broadcast(buffers)
            replica.take_buffers(buffers)
        replica.begin_averages()
        for each in replica.rows:
            if each is not replica:
                each.whole[:] = replica.whole
                each.begin_averages()
        self.ledger.begun = True
        if self.span.number > 0:  # the title names them all
            self.progress.note(records.stage(self.span, len(plan.calendar.spans)))

    def _run_stage(self) -> None:
        fence, connection = self.fence, self.connection
        self._ran = True
        with fence.open(self.span):
            carriers = [connection.between, connection.groups, *([] if fence.end is None else [fence.end])]
            self.clock.carry_on(carriers)
            drive(self._role(), self.replica, connection.between, connection.stop, groups=connection.groups,
                  ordered=self.plan.options["reproducible"], activity=self.activity, end=fence.end,
                  outlive=self.plan.continues)
            self.clock.pause()
        self._check_end()

    def _check_end(self) -> None:
        """Refuse a strategy that has ended before the stage has, which nobody stopped."""
        step, end = self.ledger.step, min(self.span.end, self.plan.end)
        if step < end and not (self.plan.strategy.servers or self.connection.stop.agreed or self.connection.smaller):
            raise StrategyError(f"strategy {self.plan.strategy.name} has ended after step {step} of {end}: its worker "
                                "must go on until BeginStep answers False")

    # ---- where it starts

    def _start(self) -> None:
        """Give the vectors their first values: those of the newest checkpoint, or the model's own. Collective."""
        plan, ledger, replica, start = self.plan, self.ledger, self.replica, self.start
        if ledger.checkpoints is not None and self.resumes:
            books = ledger.checkpoints.books(self.connection.transport)
            if books:
                self._enter(books["stage"])
                saved = ledger.checkpoints.newest(self.connection.transport, self.whole.slices())
                assert saved is not None
                ledger.restore(saved.books)
                restore(plan, replica, saved)
                if self.choice is None and books.get("auto") is not None:
                    self.choice = Choice.recorded(books["auto"])
                return
        if start is None:
            self._enter(0)
            initialise(plan, self.connection, replica)
            return
        ledger.go_on(start.metrics, start.summary)
        self._renew()
        go_on(plan, replica, start, ledger.begun)

    # ---- after an epoch

    def close_epoch(self, samples: int) -> None:
        """Close the books of an epoch in which so many samples were trained on in this session. Collective.

        They hold means over all ranks where replicas are equal, rank 0's own otherwise.
        """
        ledger, clock = self.ledger, self.clock
        self.activity.begin("the end of an epoch")
        clock.pause()
        self._check_finite(f"after epoch {ledger.epoch}")
        seconds = clock.lap()
        stage = {"stage": self.span.number + 1} if len(self.plan.calendar.spans) > 1 else {}
        line: dict[str, Any] = {"epoch": ledger.epoch, **stage, **self._losses(), "test_loss": None, **self._scores(),
                                "samples_per_second": samples / seconds, "seconds": seconds}
        for name in ("train_loss", "test_loss"):
            if line[name] is not None and not isfinite(line[name]):
                self.divergence.found(NotFiniteError(f"after epoch {ledger.epoch}, rank {self.plan.world.rank}: the "
                                                     f"{name} is {line[name]}: {NOT_FINITE_CURE}"))
        self.divergence.agree()
        self._show(line)
        best = ledger.close_epoch(line)
        self._stop_or_go_on(line, best)
        clock.go_on()

    def _check_finite(self, when: str) -> None:
        """Refuse vectors that the last updates have spoilt, whether or not a loss has shown it yet. Collective."""
        replica, plan = self.replica, self.plan
        self.divergence.agree()  # what a step has found says more than what it has spoilt everywhere
        for name, vector, layout in (("parameters", replica.whole, plan.model.layout),
                                     ("buffers", replica.buffers, plan.model.buffers)):
            if where := not_finite(name, vector, layout):
                self.divergence.found(NotFiniteError(f"{when}, rank {plan.world.rank}: {where}: {NOT_FINITE_CURE}"))
        self.divergence.agree()

    def _losses(self) -> dict[str, float]:
        """Means over the rows of the epoch that has ended, of each phase where there are several, and their sum."""
        plan, replica, division = self.plan, self.replica, self.connection.division
        joint = plan.strategy.joint
        shared = self.connection.transport if joint else None if division.group is None else division.group.transport
        means, others = {}, {}
        names = self._summed(shared)
        for phase in replica.phases:
            rows = self._rows_of(phase.is_due)
            if self.connection.smaller:  # the losses of those who died are lost, too
                rows = sum(self.connection.transport.gather_objects(replica.rows_seen[phase.name]))
            means[phase.name] = exact_sum(replica.losses.get(phase.name, []), shared) / max(1, rows)
            for name in names:
                if name.startswith(f"{phase.name}."):
                    found = exact_sum(replica.losses.get(name, []), shared) / max(1, rows)
                    others[f"train_{name.removeprefix(f'{phase.name}.')}"] = found
        replica.losses.clear()
        replica.rows_seen.clear()
        by_phase = {f"train_loss_{name}": mean for name, mean in means.items()} if len(means) > 1 else {}
        return {"train_loss": sum(means.values()), **by_phase, **others}

    def _summed(self, shared: Transport | None) -> list[str]:
        """Names of what the model's gradients sum up on any of these ranks. Collective."""
        mine = sorted({*self.replica.losses, *(phase.name for phase in self.replica.phases)})
        return mine if shared is None else sorted({name for each in shared.gather_objects(mine) for name in each})

    def _rows_of(self, is_due: Any) -> int:
        """Rows that a phase had in the epoch that has ended: of all workers, or of this one where each is alone."""
        plan, sampler = self.plan, self.plan.sampler
        epoch = self.ledger.epoch - 1
        first, end = epoch * sampler.steps_per_epoch, plan.calendar.end_of(epoch)
        began = plan.calendar.span_of(first).first
        number, count = (0, 1) if plan.strategy.joint else (plan.division.number, plan.division.count)
        parts = (sampler.part(step, number, count) for step in range(first, end) if is_due(step - began))
        return sum(last - begin for begin, last in parts)

    def _scores(self) -> dict[str, float | None]:
        """What the model makes of the test rows; None where there are none."""
        plan, division = self.plan, self.connection.division
        joint = plan.strategy.joint
        if plan.test is None or not (joint or division.number == 0):
            with self.whole.settled(evaluates=False):
                return dict.fromkeys((f"test_{name}" for name in scores_of(plan.model, plan.data)), None)
        of_worker = None if division.group is None else division.group.transport
        shared = self.connection.transport if joint else of_worker
        with self.whole.settled() as (parameters, buffers):
            scores = evaluate(plan.model, parameters, buffers, plan.test, shared, self.activity.beat, division.group,
                              (division.number, division.count) if joint else (0, 1))
        return {f"test_{name}": value for name, value in scores.items()}

    def _show(self, line: dict[str, Any]) -> None:
        """What the model shows of itself after an epoch, and what is to be warned of. Collective."""
        model: Any = self.plan.model
        texts, rows = signs.too_large(self.replica.whole, model.layout), None
        if hasattr(model, "shown") or hasattr(model, "warnings"):
            with self.whole.settled() as (parameters, buffers):
                rows = model.shown(parameters, buffers) if hasattr(model, "shown") else None
                texts += model.warnings(parameters, buffers, line, rows) if hasattr(model, "warnings") else []
        if texts:
            line["warnings"] = texts
        for text in signs.begun(line, self.ledger.metrics):
            self.progress.note(f"warning: epoch {line['epoch']}: {text}")
        if rows is not None and self.ledger.directory is not None:
            self.ledger.directory.shown(line["epoch"], rows)

    def _stop_or_go_on(self, line: dict[str, Any], best: bool) -> None:
        """After an epoch: early stopping, and the checkpoint. Collective."""
        connection, patience, stop = self.connection, self.ledger.patience, self.connection.stop
        votes = connection.transport.gather_objects((patience.over, best, stop.requested))
        patience.over, best = votes[0][:2]  # rank 0's figures decide, where they differ
        stop.agreed |= patience.over or any(vote[2] for vote in votes)  # no further step for what came by now
        epoch, last = line["epoch"], self.plan.epochs
        if epoch % self.plan.options["checkpoint_every"] == 0 or epoch == last or stop.agreed or best:
            self.save(best=best)

    # ---- checkpoints

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint. Collective."""
        if self.ledger.checkpoints is None:
            return
        self._saved = (self.ledger.step, self.ledger.row)
        replica, between, whole = self.replica, self.connection.between, self.whole
        seconds, per_rank, _ = self.seconds()
        with self.activity.files("writing a checkpoint"), whole.as_saved():
            tensors = (Gathered(replica, whole.gather_from_owners) if whole.in_shares
                       else replica.tensors(whole.state()))
            self.ledger.save(Saved(tensors, {
                "updates": between.gather_objects([[phase.updates for phase in each.phases] for each in replica.rows]),
                "counters": between.gather_objects(self._plain_counters()), "losses": self._all_losses(),
                "seconds": seconds, "seconds_per_rank": records.by_part(per_rank),
                "auto": self.choice and self.choice.record()}, whole.slices()),
                self.connection.transport, best=best)

    def _plain_counters(self) -> dict[str, Any]:
        """The strategy's counters, NumPy's numbers made Python's: this run goes on as one that is resumed does."""
        counters: dict[str, Any] = self.replica.counters
        for name, value in counters.items():
            if isinstance(value, np.generic):
                counters[name] = value.item()
            elif not isinstance(value, int | float | str):
                raise StrategyError(f"strategy {self.plan.strategy.name} has left {value!r} in me.counters[{name!r}], "
                                    "and a checkpoint holds numbers there: vectors belong into me.vectors")
        return counters

    def _all_losses(self) -> list[dict[str, list[float]]]:
        """Of each replica that is saved: its losses, of all ranks that belong to it."""
        transport = self.connection.transport
        all_ranks = {name: transport.gather(np.asarray(self.replica.losses.get(name, []), dtype=np.float64))
                     for name in self._summed(transport)}
        count = transport.size  # how many ranks' losses belong together:
        of_one = count if self.plan.strategy.replicated else self.plan.division.parts
        return [{name: [loss for part in losses[first : first + of_one] for loss in part.tolist()]
                 for name, losses in all_ranks.items()} for first in range(0, count, of_one)]

    # ---- when ranks die

    @property
    def goes_on(self) -> bool:
        """Whether ranks have died, and another session of those that are left has to go on."""
        return self.connection.smaller and self.ledger.step < self.plan.end and not self.connection.stop.agreed

    def outlive(self) -> None:
        """Leave those behind who have died, where that is wanted. Collective over all who live.

        The session ends with the epoch, whose books are still closed here, over the ranks that are left.

        Raises
        ------
        PeerLost
            A server has died, or all workers have.
        """
        if not self.plan.continues:
            return
        size = self.connection.world.size

        def note(dead: list[int]) -> None:
            epoch = self.ledger.note_deaths(dead, size)
            self.progress.note(f"{who_died(dead)} in epoch {epoch}; going on with {size - len(dead)} of {size} ranks")

        self.connection.outlive(note)

    # ---- time

    def seconds(self) -> tuple[dict[str, float], list[np.ndarray], float]:
        """Seconds of the whole run in parts, mean over the ranks; those of each rank; the mean of this session alone.
        Collective."""
        here = self.connection.transport.gather(np.array([self.clock.seconds[part] for part in PARTS]))
        mean = np.mean(here, axis=0)
        before = [np.array([each[part] for part in PARTS]) for each in self.ledger.per_rank_before]
        per_rank = [now + then for now, then in zip_longest(here, before, fillvalue=np.zeros(len(PARTS)))]
        whole = {part: self.ledger.seconds_before[part] + float(mean[i]) for i, part in enumerate(PARTS)}
        return whole, per_rank, float(mean.sum())
