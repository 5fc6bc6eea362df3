"""Session: one call of `Trainer.fit`, from the first check to the summary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl import _core
from pyddl.comm import abort, threads
from pyddl.comm.activity import Activity
from pyddl.comm.checked import Checked
from pyddl.comm.driver import drive
from pyddl.comm.group import Groups
from pyddl.comm.transport import Transport
from pyddl.comm.world import World
from pyddl.data import Source
from pyddl.data.sampler import Sampler
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, PeerLost, ShapeError
from pyddl.layout import Slice
from pyddl.models.protocol import Model, described
from pyddl.optim import Optimizer
from pyddl.optim.given import optimizer_of
from pyddl.strategies import Steps, Strategy
from pyddl.strategies.auto import Choice
from pyddl.train import records
from pyddl.train.checkpoint import Checkpoints, Saved
from pyddl.train.division import Division
from pyddl.train.evaluation import evaluate, exact_sum
from pyddl.train.progress import Progress
from pyddl.train.run import RunDirectory, write_model
from pyddl.train.server import Server
from pyddl.train.serving import Serving
from pyddl.train.stop import EarlyStopping, StopRequest, StopTogether
from pyddl.train.tensors import Gathered
from pyddl.train.timing import PARTS, TimeSplit
from pyddl.train.watchdog import Watchdog, clear
from pyddl.train.worker import SHARDS, Worker

if TYPE_CHECKING:
    from pyddl.train.trainer import Result

__all__ = ["Session", "optimizer_of"]


class Session:
    """Everything that lives as long as one training.

    The constructor checks and prepares this rank; nothing in it is collective, so it may fail on some ranks only.

    Parameters
    ----------
    model : Model
    strategy : Strategy
    given_optimizer : str or Optimizer
    options : dict
        All training options, checked.
    here : World
    data : Source
    test : Source or None
    out : str or None
    progress : Progress
    stop : StopRequest
    config : dict
        What ``config.toml`` records of data and model.
    start : Result, optional
        What to go on from.
    choice : Choice, optional
        How strategy `auto` came to this one.
    """

    def __init__(self, model: Model, strategy: Strategy, given_optimizer: str | Optimizer, options: dict[str, Any],
                 here: World, data: Source, test: Source | None, out: str | None, progress: Progress,
                 stop: StopRequest, config: dict[str, Any], start: Result | None = None,
                 choice: Choice | None = None):
        self.strategy, self.options, self.world = strategy, options, here
        self.division = Division(here, model, strategy, options)
        self.whole_model, self.model = model, self.division.model
        self.data, self.test = data, test
        self.activity = Activity()
        self.transport = self._checked(here.transport)
        self.first = here.rank == 0
        self.progress = progress if self.first else Progress()
        self._check()
        self.sampler = Sampler(len(data), options["batch_size"], options["seed"])
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.steps = options["epochs"] * self.steps_per_epoch
        scale = getattr(model, "rate_scale", 1.0)
        self.optimizer = optimizer_of(given_optimizer, options, self.steps, scale)
        if options["reproducible"] and strategy.shards and self.optimizer.clip_norm is not None:
            raise ParameterError("with shard_optimizer clip_norm adds up the squares of the ranks' shares, which are "
                                 "others on another number of ranks: leave out reproducible, clip_norm or "
                                 "shard_optimizer")
        self.serving = Serving(self, optimizer_of(strategy.server_optimizer or given_optimizer, options, self.steps,
                                                  scale)) if strategy.servers else None
        self.step = 0
        self.metrics: list[dict[str, Any]] = []
        self.seconds_before = dict.fromkeys(PARTS, 0.0)  # of earlier sessions of this run, mean over the ranks
        self.patience = EarlyStopping(options["patience"])
        self.asked = stop
        self.stop: StopRequest | StopTogether = stop
        self.together: StopTogether | None = None
        self.start, self.choice = start, choice
        self.directory: RunDirectory | None = None
        self.checkpoints: Checkpoints | None = None
        if out is not None:
            about = {**described(model), "rows": len(data), "features": data.features,
                     **{name: options[name] for name in ("batch_size", "seed", "reproducible")},
                     "fingerprint of the data": data.fingerprint(),
                     "optimizer": self.optimizer.name if self.serving is None else self.serving.optimizer.name,
                     "replicas": 1 if strategy.replicated else self.division.count}
            self.checkpoints = Checkpoints(out, about, self.division.number)
        self.out, self.config = out, config
        self.smaller = False  # some ranks have died in this session
        self.deaths: list[dict[str, Any]] = []

    def open(self) -> None:
        """Make the run directory, on rank 0. To be called once no rank has found a fault.

        Nothing is changed in one that holds another run than the one to go on with.
        """
        if self.out is not None and self.first:
            if self.checkpoints is not None and self.options["resume"]:
                self._check_books(self.checkpoints.verify())
            self.directory = RunDirectory(self.out, overwrite=self.options["overwrite"], resume=self.options["resume"])
            self.directory.config(records.config(self))
            clear(self.directory.path / "log")

    def run(self) -> dict[str, Any]:
        """Train to the end, or to the stop; return the summary. Collective."""
        try:
            with self._watched():
                return self._run()
        except SystemExit as leaving:
            if self.world.size > 1:
                abort.leave(leaving.code)
            raise

    def _run(self) -> dict[str, Any]:
        with self.division.connected(self.transport, self._checked) as self.between:
            return self._train()

    def _train(self) -> dict[str, Any]:
        transport, group = self.transport, self.division.group
        worker: Worker | Server = self._worker() if self.serving is None else self.serving.replica
        self.worker = worker
        if self.checkpoints is not None:
            self.checkpoints.group = group
        if group is not None:
            self.stop = self.together = StopTogether(self.asked, group.any)
        self._start()
        self.first_step = self.step
        placements = transport.gather_objects(threads.here(self.world.rank, self.world.node, _core.threads()))
        self.progress.begin(records.title(self, placements), self.options["epochs"], self.steps_per_epoch, self.step)
        with Groups(self.division.lane, self.between) as self.groups:
            if self.strategy.locks:
                self.groups.open_lock(None if self.out is None else Path(self.out))
            try:
                with self._opened():
                    end = None if self.serving is None else self.serving.end
                    carriers = [self.between, self.groups, *([] if end is None else [end])]
                    self.clock = TimeSplit(worker, carriers, group)
                    drive(self._role(), worker, self.between, self.stop, groups=self.groups,
                          ordered=self.options["reproducible"], activity=self.activity, end=end,
                          outlive=self._continues)
                    self.clock.pause()
            finally:
                self.progress.end()
            stopped = self.step < self.steps and not self.patience.over
            if self.goes_on:
                self.settle()
                self.state = self.whole_state()
                return {"time": self.seconds()[0], "split": 1}
            if stopped:
                self._save()
            self.settle()
            self.state = self.worker.state if self._in_shares and self.division.group is None else self.whole_state()
            self.activity.begin("the summary")
            summary = records.summary(self, stopped)
            if self.serving is not None:
                self.serving.close()
        if self.checkpoints is not None:
            with self.activity.files("writing the model"):  # begun on every rank: debug mode compares how much each has
                if self.division.number == 0:
                    write_model(self.checkpoints.folder.parent, self.model, worker.parameters, worker.buffers, group)
                if self.directory is not None:
                    self.directory.summary(summary)
            self.activity.begin("the end")
            self.transport.barrier()  # whoever goes on finds the run directory complete; those who died do not come
        return summary

    # ---- before -------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for name, source in (("training", self.data), ("test", self.test)):
            if source is None:
                continue
            wanted = getattr(self.model, "inputs", source.features)
            if source.features != wanted:
                raise ShapeError(f"the {name} data have {source.features} features; the model expects {wanted}")
            low, high = getattr(self.model, "input_range", None) or (-np.inf, np.inf)
            if source.minimum < low or source.maximum > high:
                raise ParameterError(
                    f"the {name} data reach from {source.minimum:g} to {source.maximum:g}; this model's loss needs "
                    f"values in [{low:g}, {high:g}]: scale the data, or use loss mse")
        if self._continues:
            if not (self.strategy.servers and self.strategy.tickets):
                raise ParameterError(f"on_failure is continue, but workers of strategy {self.strategy.name} as given "
                                     "wait for one another: choose strategy server with mode ssp or async, or elastic "
                                     "with mode async; or leave on_failure out")
            self.world.check_outlives()
        if not self.strategy.one_group:
            self.strategy.check(self.division.count, min(self.options["batch_size"], len(self.data)))
        workers = self.division.count - self.strategy.servers
        who = "ranks" if self.division.parts == 1 else f"groups of {self.division.parts} ranks"
        if self.options["batch_size"] < workers:
            raise ParameterError(
                f"batch_size is {self.options['batch_size']}, the samples of a step of all ranks together; "
                f"{workers} {who} would not all have work: give at least {workers}, or use fewer ranks")
        if len(self.data) < workers:
            raise DataError(f"the training data have {len(self.data)} rows for {workers} {who}; expected at least one "
                            "for each: use fewer ranks")
        if self.options["reproducible"] and self.strategy.servers:
            raise ParameterError(f"reproducible has no meaning with strategy {self.strategy.name} on servers, which "
                                 "add as workers come: leave it out, or choose strategy allreduce")
        if self.options["reproducible"] and SHARDS % self.world.size != 0:
            raise ParameterError(f"reproducible training runs on 1, 2, 4 or 8 ranks; this world has {self.world.size}")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within the block, ranks that wait for one another for ever are found out. Collective."""
        limit, world = self.options["timeout"], self.world
        if limit == 0 or world.size == 1:  # nobody waits for a rank alone
            yield
            return
        with tempfile.TemporaryDirectory(prefix="pyddl-", ignore_cleanup_errors=True) as spare:  # others may be writing
            folder = spare if self.checkpoints is None else Path(self.checkpoints.folder.parent, "log").absolute()
            folder = self.transport.gather_objects(folder)[0]
            with Watchdog(self.activity, folder, world.rank, world.size, limit):
                yield

    def _checked(self, transport: Transport) -> Transport:
        return Checked(transport, self._place) if self.options["debug"] else transport

    def _place(self) -> int:
        """What debug mode compares besides the operation itself: only synchronous workers keep step."""
        return self.activity.number if self.strategy.synchronous else 0

    def _role(self) -> Steps:
        """What this rank does."""
        if isinstance(self.worker, Server):
            return self.strategy.server(self.worker)
        assert isinstance(self.worker, Worker)
        return self.strategy.worker(self.worker)

    def _opened(self) -> AbstractContextManager[Any]:
        """This rank's loader, and the servers, where there are any. Collective."""
        if self.serving is not None:
            return self.serving.open()
        assert isinstance(self.worker, Worker)
        return self.worker.open(self.data, self.step, max(0, self.steps - self.step))

    def _worker(self) -> Worker:
        """This rank's worker; what is summed over the ranks in each step lies in memory that they share. Collective."""
        synchronous, layout = self.strategy.synchronous, self.model.layout
        worker = Worker(
            self.model, self.optimizer, self.sampler, number=self.division.number, count=self.division.count,
            rank=self.world.rank, seed=self.options["seed"], reproducible=self.options["reproducible"],
            on_step=self._step_done, vectors=self.strategy.vectors, updates_only=self.strategy.updates_only,
            sharded=self.strategy.shards,
            gradients=self.between.allocate(layout.size, "gradients") if synchronous else None,
            parameters=self.between.allocate(layout.size, "parameters") if self.strategy.shards else None,
            batch_sum=self._sum_over_batch if synchronous else None, group=self.division.group)
        if self.strategy.sums_gradients and not self.options["reproducible"]:
            worker.ready = self.between.travelling(worker.gradients, [(s.begin, s.end) for s in layout])
        if self.strategy.replicas is not None:
            worker.host(self.strategy.replicas)
        return worker

    def _start(self) -> None:
        """Give the vectors their first values: those of the newest checkpoint, or the model's own. Collective."""
        worker = self.worker
        saved = None
        if self.checkpoints is not None and self.options["resume"]:
            saved = self.checkpoints.newest(self.transport, self._slices())
        if saved is None and self.start is not None:
            self._go_on(self.start)
            return
        if saved is None:
            statistics = Statistics(self.data, self.world.rank, self.world.size, self.transport.gather_objects)
            self.model.initialise(worker.parameters, worker.buffers, self.options["seed"], statistics)
            self.between.broadcast(worker.parameters)  # ranks on unlike processors may round differently
            self.between.broadcast(worker.buffers)
            worker.merged[:] = worker.buffers
            return
        worker.restore(saved.tensors)
        books = saved.books
        worker.step = books["step"]
        self.step, self.metrics, self.seconds_before = books["step"], books["metrics"], books["seconds"]
        if self.choice is None and books.get("auto") is not None:
            self.choice = Choice.recorded(books["auto"])
        replica = 0 if self.strategy.replicated else self.division.number
        for each, updates in zip(worker.rows, books["updates"][replica], strict=True):
            each.updates = updates
        worker.counters = books["counters"][replica]
        keeps = self.first or (not self.strategy.replicated and self.division.part == 0)
        worker.losses[:] = books["losses"][replica] if keeps else []
        if self.serving is not None:
            self.serving.row = books.get("row", 0)
        self.patience.restore(self.metrics)
        if self.directory is not None:
            self.directory.rewrite_metrics(self.metrics)

    def _check_books(self, books: Mapping[str, Any]) -> None:
        """Refuse a checkpoint, by its books, that this strategy cannot go on after."""
        row = books.get("row", 0)
        if row % self.options["batch_size"] and not self.strategy.tickets:
            raise ParameterError(f"the run was stopped within a step, after row {row} of an epoch, where only strategy "
                                 "server in modes ssp and async and elastic in mode async can go on: resume with one")

    def _go_on(self, start: Result) -> None:
        """Give the vectors the values that an earlier training in this process left."""
        worker = self.worker
        if self.division.group is not None:
            start = start.cut(self.model.layout, self.model.buffers)
        if start.state and worker.kept and len(start.state) != len(worker.state):
            raise ParameterError(f"there are {len(start.state)} vectors of optimizer state to start from; "
                                 f"{self.optimizer.name} keeps {len(worker.state)}: use the optimizer that left them")
        whole = self.model.layout.size
        state = [v[worker.share] if v.size == whole else v for v in start.state] if worker.kept else []
        state = state or worker.state  # zero where unknown
        for mine, theirs in zip([worker.parameters, worker.buffers, *worker.state],
                                [start.parameters, start.buffers, *state], strict=True):
            if mine.shape != theirs.shape:
                raise ShapeError(f"a vector to start from has shape {theirs.shape}; this model needs {mine.shape}: "
                                 "whole() of that result gathers shares, if that is what it has")
            mine[:] = theirs
        worker.merged[:] = worker.buffers
        worker.updates = start.updates
        self.metrics = list(start.metrics)
        self.step = len(self.metrics) * self.steps_per_epoch
        self.seconds_before = dict(start.summary["time"])
        self.patience.restore(self.metrics)

    # ---- during -------------------------------------------------------------------------------------------

    def _sum_over_batch(self, vector: np.ndarray) -> np.ndarray:
        self.activity.begin("Sum over the batch")
        self.between.sum(vector)
        return vector

    def _step_done(self) -> None:
        self.step += 1
        self.progress.step(self.step)
        if self.together is not None:
            self.together.meet()
        if self.step % self.steps_per_epoch == 0:
            self.epoch_done(len(self.data))

    def epoch_done(self, samples: int) -> None:
        """Close the books of an epoch in which so many samples were trained on. Collective.

        They hold means over all ranks where replicas are equal, rank 0's own otherwise.
        """
        worker, clock = self.worker, self.clock
        self.activity.begin("the end of an epoch")
        clock.pause()
        seconds = clock.lap()
        joint, division = self.strategy.joint, self.division
        of_worker = None if division.group is None else division.group.transport
        shared = self.transport if joint else of_worker
        rows = len(self.data) if joint else self._rows_of_this_worker()
        if self.smaller:  # the losses of those who died are lost, too
            rows = max(1, sum(self.transport.gather_objects(worker.rows_seen)))
        line: dict[str, Any] = {"epoch": self.step // self.steps_per_epoch,
                                "train_loss": exact_sum(worker.losses, shared) / rows}
        worker.losses.clear()
        worker.rows_seen = 0
        scores: dict[str, float] = {}
        if self.test is not None and (joint or division.number == 0):
            with self._settled():
                scores = evaluate(self.model, worker.parameters, worker.buffers, self.test, shared, self.activity.beat,
                                  division.group, (division.number, division.count) if joint else (0, 1))
        line["test_loss"] = scores.get("loss")
        line["test_squared_error"] = scores.get("squared_error")
        line["samples_per_second"] = samples / seconds
        line["seconds"] = seconds
        self.metrics.append(line)
        if self.directory is not None:
            self.directory.metrics(line)
        self.progress.epoch(line)
        self._stop_or_go_on(line)
        clock.go_on()

    # ---- when ranks die -----------------------------------------------------------------------------------

    @property
    def _continues(self) -> bool:
        return self.options["on_failure"] == "continue"

    @property
    def goes_on(self) -> bool:
        """Whether ranks have died, and another session of those that are left has to go on."""
        return self.smaller and self.step < self.steps and not self.stop.agreed

    def outlive(self) -> None:
        """Leave those behind who have died, where that is wanted. Collective over all who live.

        The session ends with the epoch, whose books are still closed here, over the ranks that are left.

        Raises
        ------
        PeerLost
            A server has died, or all workers have.
        """
        if not self._continues:
            return
        before, left = self.world, self.world.shrink()
        if left is before:
            return
        dead, servers = before.missing(left), self.strategy.servers
        who = f"rank{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))} died"
        if dead[0] < servers or left.size <= servers:
            raise PeerLost(f"{who}: {'a server' if dead[0] < servers else 'no worker is left'}, without which nothing "
                           "goes on; start again with resume")
        self.world, self.smaller = left, True
        self.transport = self.between = self._checked(left.transport)
        self.division = Division(left, self.whole_model, self.strategy, self.options)
        self.division.lane = left
        self.groups = Groups(left, self.between)
        epoch = self.step // self.steps_per_epoch + 1
        self.deaths.append({"epoch": epoch, "ranks": dead, "of": before.size})
        self.progress.note(f"{who} in epoch {epoch}; going on with {left.size} of {before.size} ranks")

    def carry_on(self, before: Session) -> None:
        """Go on in the place of a session some of whose ranks have died."""
        self.directory, self.deaths = before.directory, before.deaths
        self.options = {**self.options, "resume": False}  # the start is newer than any checkpoint

    def settle(self) -> None:
        """Let this rank's vectors be what training stands for. Collective."""
        me: Any = self.worker  # settling asks for what servers have, too
        drive(self.strategy.settle(me), me, self.between, groups=self.groups, activity=self.activity,
              end=None if self.serving is None else self.serving.end)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Let the worker's vectors be what training stands for; afterwards they are as before. Collective."""
        worker = self.worker
        if self.strategy.replicated or not self.strategy.joint:
            yield
            return
        kept = [(vector, vector.copy()) for vector in (worker.parameters, worker.buffers, worker.merged)]
        self.settle()
        yield
        for vector, values in kept:
            vector[:] = values

    def _stop_or_go_on(self, line: dict[str, Any]) -> None:
        """After an epoch: early stopping, and the checkpoint. Collective."""
        best = self.patience.see(line)
        if not self.strategy.replicated:  # rank 0's figures decide; here such ranks also agree on a stop
            votes = self.transport.gather_objects((self.patience.over, best, self.stop.requested))
            self.patience.over, best = votes[0][:2]
            self.stop.agreed |= any(vote[2] for vote in votes)
        self.stop.agreed |= self.patience.over
        epoch, epochs = line["epoch"], self.options["epochs"]
        if epoch % self.options["checkpoint_every"] == 0 or epoch == epochs or self.stop.agreed or best:
            self._save(best=best)

    def _save(self, *, best: bool = False) -> None:
        """Write a checkpoint. Collective."""
        if self.checkpoints is None:
            return
        with self.activity.files("writing a checkpoint"):
            self._write_checkpoint(best)

    def _write_checkpoint(self, best: bool) -> None:
        assert self.checkpoints is not None
        worker, transport = self.worker, self.transport
        losses = [part.tolist() for part in transport.gather(np.asarray(worker.losses))]
        of_one = len(losses) if self.strategy.replicated else self.division.parts  # ranks whose losses belong together
        losses = [[loss for part in losses[first : first + of_one] for loss in part]
                  for first in range(0, len(losses), of_one)]
        tensors = (Gathered(worker, self.groups["world"].gather_from_owners) if self._in_shares
                   else worker.tensors(self.whole_state()))
        self.checkpoints.save(Saved(tensors, {
            "step": self.step, "row": 0 if self.serving is None else self.serving.row, "metrics": self.metrics,
            "updates": self.between.gather_objects([each.updates for each in worker.rows]),
            "counters": self.between.gather_objects(worker.counters), "losses": losses,
            "seconds": self.seconds()[0], "auto": self.choice and self.choice.record()},
            self._slices()), transport, best=best)

    def _slices(self) -> dict[str, Slice] | None:
        """Which parts of the tensors this rank holds; None where it holds them whole, all at once."""
        return self.worker.slices() if self.division.group is not None or self._in_shares else None

    @property
    def _in_shares(self) -> bool:
        """Whether each rank has a share of the optimizer's state, too large for one perhaps."""
        return self.strategy.shards and self.division.count > 1

    def whole_state(self) -> list[np.ndarray]:
        """The optimizer's state vectors, also where each rank keeps a share, or the servers do. Collective."""
        if self.serving is not None and self.strategy.replicated:
            return self.serving.state()
        state = self.worker.whole_state()
        if self.strategy.shards:
            for vector in state:
                self.groups["world"].gather_from_owners(vector)
        return state

    def _rows_of_this_worker(self) -> int:
        number, count = self.division.number, self.division.count
        parts = (self.sampler.part(step, number, count) for step in range(self.steps_per_epoch))
        return max(1, sum(end - begin for begin, end in parts))

    # ---- after --------------------------------------------------------------------------------------------

    def seconds(self) -> tuple[dict[str, float], list[np.ndarray]]:
        """Seconds of the whole run in parts, mean over the ranks; and those of this session for each. Collective."""
        per_rank = self.transport.gather(np.array([self.clock.seconds[part] for part in PARTS]))
        mean = np.mean(per_rank, axis=0)
        return {part: self.seconds_before[part] + float(mean[i]) for i, part in enumerate(PARTS)}, per_rank
