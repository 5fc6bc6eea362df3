"""What DESIGN.md and the papers say of training in stages, phases and turns: one plain loop in double precision.

`follow` trains as many replicas as there are workers in one process; a strategy is what they do to each other, a small
class. `replay` is for servers, where it depends on who came first: it is driven by the logs of a run (`Logged`).
"""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np

from pyddl.comm.cut import Cut
from pyddl.comm.operations import Arrived, Compute, Fetch, Push, Receive, StepDone, Update
from pyddl.data import ArraySource
from pyddl.data.sampler import Sampler
from pyddl.data.statistics import Statistics
from pyddl.models.stages import stages_of
from pyddl.strategies.gossip import partner

RATE, BATCH, SEED, EPOCHS = 0.1, 16, 4, 3  # of the trainer's optimizer, plain descent; of the last stage
ROWS = np.random.default_rng(5).random((75, 20), dtype=np.float32)  # the last step of an epoch has 11 rows
TEST = np.random.default_rng(6).random((31, 20), dtype=np.float32)


class Replica:
    """One flat vector, its views by the slices' names, and what belongs to each phase."""

    def __init__(self, model, p):
        self.model, self.p = model, p.copy()
        self.views = views_of(model, self.p)

    def enter(self, stage):
        self.phases = {phase.name: phase for phase in stage.phases}
        self.velocity = {name: np.zeros(self.part(phase).size) for name, phase in self.phases.items()}
        self.average = {name: self.part(phase).copy() for name, phase in self.phases.items()}
        self.updates = dict.fromkeys(self.phases, 0)

    def part(self, phase, vector=None):
        """The phase's range of a vector."""
        names = [s.name for s in self.model.layout]
        mine = [i for i, s in enumerate(self.model.layout) if not phase.groups or s.group in phase.groups]
        width = self.p.size // len(names)
        return (self.p if vector is None else vector)[mine[0] * width : (mine[-1] + 1) * width]

    def gradient(self, phase, batch):
        """Loss and gradient, sums over the rows."""
        loss, sums = self.model.sums(self.views, ROWS[batch.index].astype(np.float64), batch)
        return loss, np.concatenate([sums[s.name] for s in self.model.layout if s.name in sums])

    def update(self, phase, mean, clock, rate=1.0):
        own = phase.optimizer
        rate *= own.get("learning_rate", RATE) * own.get("step_factor", 1) ** (clock // own.get("step_every", 1000))
        velocity, part = self.velocity[phase.name], self.part(phase)
        velocity *= 0.9 if own.get("optimizer") == "momentum" else 0
        velocity -= rate * mean
        part += velocity
        np.clip(part, -own.get("bound", np.inf), own.get("bound", np.inf), out=part)
        self.updates[phase.name] += 1
        updates, average = self.updates[phase.name], self.average[phase.name]
        average += (1 - min(phase.average or 0, updates / (updates + 9))) * (part - average)

    def averaged(self):
        out = self.p.copy()
        for name, phase in self.phases.items():
            self.part(phase, out)[:] = self.average[name]
        return out


class Alone:
    """Nothing is sent."""

    per_node = 1

    def __init__(self, workers):
        self.workers = workers

    def start(self, replicas): ...

    def is_together(self, t):
        """Whether gradients are summed over the workers."""
        return False

    def meet(self, replicas, t):
        """Before the last turn's update."""

    def after(self, replicas, t, samples):
        """After all turns."""

    def settled(self, replicas):
        return replicas[0].p.copy()


class Together(Alone):
    def is_together(self, t):
        return True


class Averaged(Alone):
    """Local SGD: weighted by the samples since the last average; block momentum, DiLoCo; post-local, hierarchical."""

    def __init__(self, workers, period=16, sync_steps=0, node_period=None, outer="none"):
        super().__init__(workers)
        self.period, self.sync_steps, self.node_period, self.outer = period, sync_steps, node_period, outer
        self.momentum, self.rate = {"none": (0, 1), "momentum": (0.6, 1.0), "nesterov": (0.9, 0.7)}[outer]

    def start(self, replicas):
        self.anchor, self.velocity, self.used = replicas[0].p.copy(), 0.0, np.zeros(self.workers)

    def is_together(self, t):
        return t < self.sync_steps

    def after(self, replicas, t, samples):
        if t < self.sync_steps:
            self.anchor = replicas[0].p.copy()
            return
        self.used += samples
        k = t + 1 - self.sync_steps
        if k % self.period == 0:
            difference = self.anchor - self.settled(replicas)
            self.velocity = self.momentum * self.velocity + difference
            nesterov = difference + self.momentum * self.velocity
            self.anchor = self.anchor - self.rate * (nesterov if self.outer == "nesterov" else self.velocity)
            self._set(replicas, self.anchor)
            self.used[:] = 0
        elif self.node_period and k % self.node_period == 0:
            for first in range(0, self.workers, self.per_node):
                there = slice(first, first + self.per_node)
                if self.used[there].any():
                    self._set(replicas[there], mean_of(replicas[there], self.used[there]))

    def _set(self, replicas, p):
        for each in replicas:
            each.p[:] = p

    def settled(self, replicas):
        return mean_of(replicas, self.used) if self.used.any() else replicas[0].p.copy()


class Elastic(Alone):
    """Equations 5 and 6 of Zhang, Choromanska, LeCun, and EAMSGD: p is the point x + delta v."""

    def __init__(self, workers, tau, elastic_momentum=0.0):
        super().__init__(workers)
        self.tau, self.delta = tau, elastic_momentum

    def start(self, replicas):
        self.x, self.centre = [each.p.copy() for each in replicas], replicas[0].p.copy()

    def meet(self, replicas, t):
        if self.delta == 0:
            self.x = [each.p for each in replicas]
        if t % self.tau or t == 0:
            return
        force = [0.9 / self.workers * (x - self.centre) for x in self.x]
        self.centre = self.centre + sum(force)
        for each, x, f in zip(replicas, self.x, force, strict=True):
            each.p -= f
            if x is not each.p:
                x -= f

    def after(self, replicas, t, samples):
        if self.delta:
            for each, x in zip(replicas, self.x, strict=True):
                velocity = each.p - x
                x[:] = each.p
                each.p += self.delta * velocity

    def settled(self, replicas):
        return self.centre.copy()


class Gossip(Alone):
    def meet(self, replicas, t):
        others = [partner(i, self.workers, SEED, t) for i in range(self.workers)]
        mixed = [each.p if j is None else (each.p + replicas[j].p) / 2
                 for each, j in zip(replicas, others, strict=True)]
        for each, p in zip(replicas, [p.copy() for p in mixed], strict=True):
            each.p[:] = p

    def settled(self, replicas):
        return sum(each.p for each in replicas) / self.workers


def mean_of(replicas, weights):
    return sum(w * each.p for w, each in zip(weights, replicas, strict=True)) / sum(weights)


def views_of(model, p):
    names = [s.name for s in model.layout]
    return dict(zip(names, np.split(p, len(names)), strict=True))


def flat(model, vector):
    """The elements of slices, without gaps."""
    return np.concatenate([view.ravel() for view in model.layout.views(vector).values()])


def first_values(model):
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, SEED, Statistics(ArraySource(ROWS)))
    return flat(model, parameters).astype(np.float64), buffers


def batch_of(sampler, step, part, parts, **own):
    begin, end = sampler.part(step, part, parts)
    return SimpleNamespace(index=sampler.index(sampler.epoch_of(step), begin, end), step=step, seed=SEED, **own)


def spans_of(stages, each, epochs=EPOCHS):
    """First step and number of steps of every stage; an epoch that a stage ends early leaves its numbers unused."""
    first = 0
    for stage in stages:
        length = stage.steps or each * (stage.epochs or epochs)
        yield stage, first, length
        first += -(-length // each) * each


def begin(stage, model, p):
    """What a stage's ``begin`` makes of the vector."""
    if stage.begin is None:
        return p
    vector, buffers = model.layout.zeros(), model.buffers.zeros()
    for name, view in model.layout.views(vector).items():
        view[:] = views_of(model, p)[name]
    stage.begin(vector, buffers, SEED, Statistics(ArraySource(ROWS)))
    return flat(model, vector).astype(np.float64)


def follow(model, strategy):
    """Train; settled and averaged parameters at the end, and of each epoch the losses by phase and the scores."""
    sampler, p, lines = Sampler(len(ROWS), BATCH, SEED), first_values(model)[0], []
    for stage, first, length in spans_of(stages_of(model), sampler.steps_per_epoch):
        replicas = [Replica(model, begin(stage, model, p)) for _ in range(strategy.workers)]
        for each in replicas:
            each.enter(stage)
        strategy.start(replicas)
        losses, rows = defaultdict(float), defaultdict(int)
        for t in range(length):
            step_of(model, sampler, strategy, replicas, stage, first + t, t, losses, rows)
            if (t + 1) % sampler.steps_per_epoch == 0 or t + 1 == length:
                p, averaged = strategy.settled(replicas), copies(strategy, replicas)
                scores = model.scores(views_of(model, averaged), TEST.astype(np.float64))
                means = {f"train_loss_{name}": losses[name] / max(1, rows[name]) for name in replicas[0].phases}
                lines.append(means | {f"test_{name}": value / len(TEST) for name, value in scores.items()})
                losses.clear()
                rows.clear()
    return SimpleNamespace(parameters=p, averaged=averaged, lines=lines)


def step_of(model, sampler, strategy, replicas, stage, step, t, losses, rows):
    due = [(turn, phase) for turn, phase in enumerate(stage.phases) if t % phase.every == phase.every - 1]
    samples = np.diff([sampler.part(step, w, strategy.workers)[0] for w in range(strategy.workers)]
                      + [sampler.rows_of(step)[1]])
    for turn, phase in due:
        found = [each.gradient(phase, batch_of(sampler, step, w, strategy.workers, turn=turn, phase=phase.name))
                 for w, each in enumerate(replicas)]
        losses[phase.name] += sum(loss for loss, _ in found)
        rows[phase.name] += samples.sum()
        if (turn, phase) == due[-1]:
            strategy.meet(replicas, t)
        together = strategy.is_together(t)
        for each, (_, mine), n in zip(replicas, found, samples, strict=True):
            if together or n:
                each.update(phase, sum(g for _, g in found) / samples.sum() if together else mine / n, t)
    if not due:
        strategy.meet(replicas, t)
    strategy.after(replicas, t, samples)


def copies(strategy, replicas):
    """The settled parameters, with the mean of all averaged copies in the place of those that have one."""
    out = strategy.settled(replicas)
    counted = replicas[:1] if type(strategy) is Alone else replicas
    for name, phase in replicas[0].phases.items():
        if phase.average:
            replicas[0].part(phase, out)[:] = sum(each.average[name] for each in counted) / len(counted)
    return out


# ---- servers


def logged(kind):
    """A class of strategies as ``kind``, whose servers and workers, in this order, note in ``logs`` what happens."""

    class Logged(kind):
        def __init__(self, **options):
            super().__init__(**options)
            self.logs = []

        def worker(self, me):
            return self._noted(me, super().worker(me), self._of_worker)

        def server(self, me):
            return self._noted(me, super().server(me), self._of_server)

        def _noted(self, me, steps, note):
            self.logs.append([])
            return noted(me, steps, note, self.logs[-1])

        def _of_worker(self, me, operation, answer):
            if isinstance(operation, Fetch):
                return "fetch", answer if isinstance(answer, tuple) else (answer,)
            if isinstance(operation, Compute):
                batch = me._batch
                return "compute", batch.phase, batch.turn, batch.step, batch.index.copy()
            if isinstance(operation, Update):
                return "update", me._phase.name
            if isinstance(operation, StepDone):
                return ("done",)
            return ("push", operation.phase) if isinstance(operation, Push) else None

        def _of_server(self, me, operation, answer):
            if isinstance(operation, Receive) and isinstance(answer, Arrived):
                return "arrived", answer.worker, answer.weight, answer.rows
            return ("update", operation.phase, operation.rate) if isinstance(operation, Update) else None

    return Logged


def noted(me, steps, note, log):
    answer = None
    while True:
        try:
            operation = steps.send(answer)
        except StopIteration:
            return
        answer = yield operation
        entry = note(me, operation, answer)
        if entry is not None:
            log.append(entry)


def replay(model, servers, workers, *, scales, steps):
    """The served parameters and averaged copies at the end, by the logs of servers and workers of a run of one stage.

    ``scales``: whether a push counts as the part of a step that it is. Checks that every row has had every turn.
    """
    stage, p = stages_of(model)[0], first_values(model)[0]
    sampler = Sampler(len(ROWS), BATCH, SEED)
    cut = [member_cut(model, stage, number, len(servers)) for number in range(len(servers))]
    served = [Served(model, stage, p, log, sampler) for log in servers]
    working = [Working(model, stage, p, log, sampler) for log in workers]
    while any(each.log for each in (*served, *working)):
        moved = [each.advance(working, scales) for each in served] + [each.advance(served, cut) for each in working]
        assert any(moved), "the logs do not fit together"
    for phase in stage.phases:
        turns = [t for t in range(steps) if t % phase.every == phase.every - 1]
        wanted = np.sort(np.concatenate([batch_of(sampler, t, 0, 1).index for t in turns]))
        got = np.concatenate([index for each in working for index in each.seen[phase.name]])
        np.testing.assert_array_equal(np.sort(got), wanted)
    out, averaged = p.copy(), p.copy()
    for each, members in zip(served, cut, strict=True):
        out[members], averaged[members] = each.p[members], each.with_copies()[members]
    return out, averaged


def member_cut(model, stage, number, count):
    """Which elements, without gaps, server ``number`` has."""
    layout = model.layout
    mine = np.zeros(layout.size, dtype=np.float32)
    cut = Cut(layout.size, count, [layout.range_of(phase.groups) for phase in stage.phases])
    for piece in cut.pieces[number]:
        mine[piece] = 1
    return np.flatnonzero(flat(model, mine))


class Served(Replica):
    """A server: it applies what its log says has arrived, to whole vectors, of which its share counts."""

    def __init__(self, model, stage, p, log, sampler):
        super().__init__(model, p)
        self.enter(stage)
        self.log, self.sampler = list(log), sampler
        self.versions, self.taken, self.waiting = [self.p.copy()], defaultdict(int), []
        self.rows = self.rows_before = 0

    def advance(self, working, scales):
        moved = False
        while self.log:
            kind, *rest = self.log[0]
            if kind == "arrived":
                worker, weight, rows = rest
                if len(working[worker].pushed) <= self.taken[worker]:
                    return moved
                vector, samples, mine, steps = working[worker].pushed[self.taken[worker]]
                np.testing.assert_allclose(weight, steps, rtol=1e-6)
                self.taken[worker] += 1
                self.waiting.append((vector, samples, mine, weight))
                self.rows += rows
            else:
                name, rate = rest
                assert {phase for _, _, phase, _ in self.waiting} == {name}
                total, samples = (sum(each[i] for each in self.waiting) for i in (0, 1))
                if scales:
                    weight = sum(weight for *_, weight in self.waiting)
                    np.testing.assert_allclose(rate, min(1, weight), rtol=1e-6)
                    total = total * max(1, weight)  # beyond one step it is the gradient that grows
                self.update(self.phases[name], total / samples, self.sampler.reached(self.rows_before), rate)
                self.rows_before, self.waiting = self.rows, []
                self.versions.append(self.p.copy())
            self.log.pop(0)
            moved = True
        return moved

    def with_copies(self):
        return self.averaged()


class Working(Replica):
    """A worker: it fetches, computes, pushes, and moves its own copy, as its log says."""

    def __init__(self, model, stage, p, log, sampler):
        super().__init__(model, p)
        self.enter(stage)
        self.log, self.sampler = list(log), sampler
        self.pushed, self.pending, self.seen, self.step = [], {}, defaultdict(list), 0

    def advance(self, served, cut):
        moved = False
        while self.log:
            kind, *rest = self.log[0]
            if kind == "fetch":
                versions, = rest
                if any(len(each.versions) <= version for each, version in zip(served, versions, strict=True)):
                    return moved
                for each, version, members in zip(served, versions, cut, strict=True):
                    self.p[members] = each.versions[version][members]
            elif kind == "compute":
                name, turn, step, index = rest
                batch = SimpleNamespace(index=index, step=step, seed=SEED, turn=turn, phase=name)
                if self.sampler.epoch_of(step) != self.sampler.epoch_of(self.step):
                    self.velocity = {phase: 0 * each for phase, each in self.velocity.items()}
                _, self.latest = self.gradient(self.phases[name], batch)
                self.samples, self.step = len(index), step
                total, samples, weight = self.pending.get(name, (0, 0, 0))
                begin, end = self.sampler.rows_of(step)
                self.pending[name] = total + self.latest, samples + len(index), weight + len(index) / (end - begin)
                self.seen[name].append(index)
            elif kind == "push":
                vector, samples, weight = self.pending.pop(rest[0])
                self.pushed.append((vector, samples, rest[0], weight))
            elif kind == "update":
                self.update(self.phases[rest[0]], self.latest / self.samples, self.step)
            self.log.pop(0)
            moved = True
        return moved


def replay_elastic(model, server, workers, *, delta):
    """The centre at the end of algorithm 1 of the elastic paper, by the logs of its server and workers."""
    stage, p = stages_of(model)[0], first_values(model)[0]
    centre = [p]
    pulled = [Pulled(model, stage, p, log, delta, 0.9 / len(workers)) for log in workers]
    order, taken = [worker for _, worker, *_ in server], [0] * len(workers)
    while order or any(each.log for each in pulled):
        moved = any([each.advance(centre) for each in pulled])
        while order and len(pulled[order[0]].forces) > taken[order[0]]:
            centre.append(centre[-1] + pulled[order[0]].forces[taken[order[0]]])
            taken[order.pop(0)] += 1
            moved = True
        assert moved, "the logs do not fit together"
    return centre[-1]


class Pulled(Replica):
    """A worker of the elastic paper: p is the point x + delta v at which it takes gradients."""

    def __init__(self, model, stage, p, log, delta, alpha):
        super().__init__(model, p)
        self.enter(stage)
        self.log, self.delta, self.alpha, self.forces, self.x = list(log), delta, alpha, [], p.copy()

    def advance(self, centre):
        moved = False
        while self.log:
            kind, *rest = self.log[0]
            if kind == "fetch":
                if len(centre) <= rest[0][0]:
                    return moved
                at = self.x if self.delta else self.p
                self.forces.append(self.alpha * (at - centre[rest[0][0]]))
                self.p -= self.forces[-1]
                self.x -= self.forces[-1]
            elif kind == "compute":
                name, turn, step, index = rest
                batch = SimpleNamespace(index=index, step=step, seed=SEED, turn=turn, phase=name)
                self.latest, self.clock = self.gradient(self.phases[name], batch)[1] / len(index), step
            elif kind == "update":
                self.update(self.phases[rest[0]], self.latest, self.clock)
            elif kind == "done":
                velocity, self.x = self.p - self.x, self.p.copy()
                self.p += self.delta * velocity
            self.log.pop(0)
            moved = True
        return moved
