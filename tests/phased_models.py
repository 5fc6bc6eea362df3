"""Models with phases, stages and buffers, in NumPy, with gradients in closed form.

Each model's arithmetic is a function of double-precision views, `sums`; the trainer sees it through `gradient`, which
rounds to float32, and `phased_reference` calls it as it is.
"""

import numpy as np

from pyddl.layout import Layout, Slice
from pyddl.models.stages import Phase, Stage

FEATURES = 20
HALVING = {"schedule": "step", "step_every": 4, "step_factor": 0.5}


def noise(seed, step, turn, index):
    """A row of noise for each index: a function of its key and nothing else."""
    rows = [np.random.Generator(np.random.Philox(key=seed, counter=[step, turn, i, 1])).normal(size=FEATURES)
            for i in index]
    return np.array(rows).reshape(len(index), FEATURES)


class Phased:
    """What they share: views in double precision, and a record of when ``begin`` was called."""

    inputs = FEATURES
    buffers = Layout()

    def initialise(self, parameters, buffers, seed, data):
        for view in self.layout.views(parameters).values():
            view[:] = 0.3 * np.random.default_rng(seed).normal(size=view.shape)

    def gradient(self, parameters, gradients, buffers, batch):
        values = {name: view.astype(np.float64) for name, view in self.layout.views(parameters).items()}
        loss, sums = self.sums(values, batch.rows.astype(np.float64), batch)
        for name, view in self.layout.views(gradients).items():
            view[:] = sums.get(name, 7.0)  # what is not the phase's may be scratched
            if name in sums and batch.ready is not None:
                batch.ready(self.layout[name].begin, self.layout[name].end)
        return float(loss)

    def evaluate(self, parameters, buffers, batch):
        values = {name: view.astype(np.float64) for name, view in self.layout.views(parameters).items()}
        return self.scores(values, batch.rows.astype(np.float64))


class Pair(Phased):
    """A generator, scale z + shift, and a critic, w x + q x^2, of rows x: WGAN with clipped weights."""

    name = "pair"
    layout = Layout([*(Slice(name, (FEATURES,), "generator") for name in ("scale", "shift")),
                     *(Slice(name, (FEATURES,), "critic") for name in ("w", "q"))])

    def __init__(self):
        own = {"optimizer": "momentum", "learning_rate": 0.05, "bound": 0.2, **HALVING}
        generator = {"optimizer": "sgd", "learning_rate": 0.4, **HALVING}
        self.stages = (Stage((Phase("critic", ("critic",), optimizer=own),
                              Phase("generator", ("generator",), every=2, optimizer=generator, average=0.9))),)

    def sums(self, p, rows, batch):
        z = noise(batch.seed, batch.step, batch.turn, batch.index)
        fake = p["scale"] * z + p["shift"]
        loss = (fake @ p["w"] + fake**2 @ p["q"]).sum()
        if batch.phase == "critic":
            loss -= (rows @ p["w"] + rows**2 @ p["q"]).sum()
            return loss, {"w": (fake - rows).sum(axis=0), "q": (fake**2 - rows**2).sum(axis=0)}
        slope = -(p["w"] + 2 * p["q"] * fake)
        return -loss, {"scale": (slope * z).sum(axis=0), "shift": slope.sum(axis=0)}

    def scores(self, p, rows):
        return {"loss": float(((rows - p["shift"]) ** 2).sum()), "critic": float((rows @ p["w"]).sum())}


class Staged(Phased):
    """Rows x as a + b c: stage 1 trains a, stage 2 b; c stays as it is.

    Stage 2 begins by taking the data's mean for b, and halves a.
    """

    name = "staged"
    layout = Layout([Slice(name, (FEATURES,), name) for name in "abc"])
    buffers = Layout([Slice("begun", (2,), merge="sum")])

    def __init__(self, outer=False, **lasts):
        self.calls = 0
        first = Phase("first", ("a",), average=0.5)
        self.stages = (Stage((first,), **(lasts or {"epochs": 2})),
                       Stage((Phase("second", ("b",), optimizer={"learning_rate": 0.2}),), begin=self.begin))

    def begin(self, parameters, buffers, seed, data):
        self.calls += 1
        views = self.layout.views(parameters)
        views["b"][:] = data.mean
        views["a"] *= 0.5
        self.buffers.views(buffers)["begun"] += (1, data.mean[0])

    def sums(self, p, rows, batch):
        residue = p["a"] + p["b"] * p["c"] - rows
        name, slope = ("a", 1) if batch.phase == "first" else ("b", p["c"])
        return (residue**2).sum() / 2, {name: (residue * slope).sum(axis=0)}

    def scores(self, p, rows):
        return {"loss": float(((p["a"] + p["b"] * p["c"] - rows) ** 2).sum()), "a": float(p["a"].sum()) * len(rows)}


class Kept(Phased):
    """A field w against a table of persistent chains, w (mean of chains - mean of rows), and a buffer of every rule.

    ``mean`` is a running mean of the rows' means, by ``batch.sum`` where that is wanted; ``sums`` and ``count`` are
    decayed sums of rows and their number; ``seen`` counts rows, ``top`` is the largest index. Chains move in a circle
    towards w, each by noise of its own.
    """

    layout = Layout([Slice("w", (FEATURES,))])

    def __init__(self, *, batch_sum=False, chains=5, merged=True):
        self.batch_sum, self.chains = batch_sum, chains
        rules = [Slice("mean", (1,)), Slice("sums", (FEATURES,), merge="total"), Slice("count", (1,), merge="total"),
                 Slice("seen", (1,), merge="sum"), Slice("top", (1,), merge="max")] if merged else []
        tables = [Slice("chain", (chains, FEATURES), merge="rows"), Slice("age", (chains,), merge="rows")]
        self.buffers = Layout([*rules, *(tables if chains else [])])
        self.merged = merged

    def initialise(self, parameters, buffers, seed, data):
        super().initialise(parameters, buffers, seed, data)
        views = self.buffers.views(buffers)
        for name, view in views.items():
            view[:] = 0.5 if name != "chain" else np.random.default_rng(seed + 1).normal(size=view.shape)

    def gradient(self, parameters, gradients, buffers, batch):
        views, w = self.buffers.views(buffers), self.layout.views(parameters)["w"]
        if self.merged:
            self._move(views, batch)
        negative = np.zeros(FEATURES)
        if batch.chains is not None:
            begin, end, total = batch.chains
            mine = views["chain"][begin:end]
            mine[:] = np.cos(mine + w + 0.1 * noise(batch.seed, batch.step, batch.turn, range(begin, end)))
            views["age"][begin:end] += 1
            negative = mine.sum(axis=0, dtype=np.float64) * batch.total / total
        self.layout.views(gradients)["w"][:] = negative - batch.rows.sum(axis=0, dtype=np.float64)
        return float(batch.rows.sum(dtype=np.float64))

    def scores(self, p, rows):
        return {"loss": float((rows @ p["w"]).sum())}

    def _move(self, views, batch):
        if self.batch_sum:
            total, rows = batch.sum(np.array([batch.rows.mean(axis=1).sum(), len(batch)], dtype=np.float32))
        else:
            total, rows = batch.rows.mean(axis=1).sum(), len(batch)
        if rows:
            views["mean"][:] = 0.9 * views["mean"] + 0.1 * total / rows
        views["sums"][:] = 0.9 * views["sums"] + batch.rows.sum(axis=0)
        views["count"][:] = 0.9 * views["count"] + len(batch)
        views["seen"] += len(batch)
        if len(batch):
            views["top"][:] = max(views["top"][0], batch.index.max())
