"""Small training runs for the tests of strategies: data, a call of the trainer, models that tell or ask something."""

import numpy as np
import pytest

from pyddl.layout import Layout, Slice
from pyddl.models import Autoencoder
from pyddl.models.stages import stages_of
from pyddl.train import Trainer

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)
TEST = np.random.default_rng(6).random((101, 20), dtype=np.float32)
STRATEGIES = {
    "local": {"strategy": "local"},
    "allreduce": {"strategy": "allreduce"},
    "shares": {"strategy": "allreduce", "shard_optimizer": True},
    "averaging": {"strategy": "averaging", "period": 4},
    "elastic": {"strategy": "elastic", "tau": 2},
    "gossip": {"strategy": "gossip"},
    "sequential": {"strategy": "sequential", "replicas": 2},
    "server": {"strategy": "server"},
    "ssp": {"strategy": "server", "mode": "ssp", "bound": 1},
    "async": {"strategy": "server", "mode": "async"},
}


def options_of(world, name):
    """The options of a strategy; skipped on too few ranks."""
    if world.size < 2 and name not in ("local", "allreduce", "sequential"):
        pytest.skip("needs more ranks")
    return STRATEGIES[name]


def entered(replica, rule):
    """A worker or server at the beginning of its model's first stage, with this optimizer."""
    replica.enter(stages_of(replica.model)[0], lambda phase: rule)
    return replica


def train(out=None, model=None, stop=None, test=TEST, start=None, **options):
    options = {"batch_size": 50, "epochs": 4, "seed": 4, **options}
    model = model or Autoencoder(20, hidden=(8, 3))
    trainer = Trainer(model, out=None if out is None else str(out), stop=stop, **options)
    return trainer.fit(ROWS, test, start=start)


class StopAfter(Autoencoder):
    """Asks for a stop within a step, as a signal would."""

    def __init__(self, stop, step):
        super().__init__(20, hidden=(8, 3))
        self.stop, self.step = stop, step

    def gradient(self, parameters, gradients, buffers, batch):
        if batch.step == self.step:
            self.stop.requested = True
        return super().gradient(parameters, gradients, buffers, batch)


class Buffered:
    """Counts what it sees in buffers of all three kinds."""


    def __init__(self):
        self.layout = Layout([Slice("w", (20,))])
        self.buffers = Layout([Slice("mean", (2,)), Slice("seen", (1,), merge="sum"), Slice("top", (1,), merge="max")])

    def initialise(self, parameters, buffers, seed, data):
        parameters[:] = 0
        self.buffers.views(buffers)["seen"][:] = 1000

    def gradient(self, parameters, gradients, buffers, batch):
        views = self.buffers.views(buffers)
        gradients[:] = 0
        if len(batch):
            views["mean"][:] = batch.rows.mean()
            views["seen"] += len(batch)
            views["top"][:] = max(views["top"][0], batch.index.max())
        return float(batch.rows.sum(dtype=np.float64))


def same_everywhere(world, vector):
    everywhere = world.transport.gather(vector.astype(np.float64))
    return all(np.array_equal(each, everywhere[0]) for each in everywhere)
