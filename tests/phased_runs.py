"""Runs of phased models: the trainer and the simulation on one set of rows, and every strategy with its reference."""

from contextlib import nullcontext

import numpy as np
import pytest
from phased_models import Pair
from phased_reference import (
    BATCH,
    EPOCHS,
    RATE,
    ROWS,
    SEED,
    TEST,
    Alone,
    Averaged,
    Elastic,
    Gossip,
    Together,
)

from pyddl.comm import use
from pyddl.data import ArraySource
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.simulation import simulate

KINDS = {
    "allreduce": ("allreduce", {}, Together),
    "shards": ("allreduce", {"shard_optimizer": True}, Together),
    "averaging": ("averaging", {"period": 3}, lambda w: Averaged(w, 3)),
    "post-local": ("averaging", {"period": 1, "sync_steps": 4}, lambda w: Averaged(w, 1, 4)),
    "hierarchical": ("averaging", {"period": 4, "node_period": 2}, lambda w: Averaged(w, 4, node_period=2)),
    "SlowMo": ("averaging", {"period": 2, "outer": "momentum"}, lambda w: Averaged(w, 2, outer="momentum")),
    "DiLoCo": ("averaging", {"period": 3, "outer": "nesterov"}, lambda w: Averaged(w, 3, outer="nesterov")),
    "EASGD": ("elastic", {"tau": 2}, lambda w: Elastic(w, 2)),
    "EAMSGD": ("elastic", {"tau": 3, "elastic_momentum": 0.5}, lambda w: Elastic(w, 3, 0.5)),
    "gossip": ("gossip", {}, Gossip),
    "sequential": ("sequential", {"replicas": 3}, lambda w: Averaged(3, 1)),
    "local": ("local", {}, Alone),
    "served": ("server", {"mode": "sync"}, Together),
    "served by two": ("server", {"mode": "sync", "servers": 2}, Together),
}


def alone(world):
    """Each rank for itself, as a world of one."""
    return nullcontext() if world.size == 1 else use(world.mpi.Split(world.rank))


def train(model=None, out=None, stop=None, rows=ROWS, **options):
    given = {"optimizer": "sgd", "learning_rate": RATE, "batch_size": BATCH, "seed": SEED, "epochs": EPOCHS}
    options = {**given, **options}
    fit = {name: options.pop(name) for name in ("start", "passes") if name in options}
    trainer = Trainer(model or Pair(), out=None if out is None else str(out), stop=stop, **options)
    return trainer.fit(rows, TEST, **fit)


def simulated(chosen, workers, model=None, **options):
    return simulate(model or Pair(), ArraySource(ROWS), ArraySource(TEST), chosen, workers,
                    optimizer("sgd", learning_rate=RATE), epochs=EPOCHS, batch_size=BATCH, seed=SEED, **options)


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


def checked(world, name):
    """Name, options and reference of a kind; skipped on too few ranks."""
    kind, options, rule = KINDS[name]
    workers = world.size - options.get("servers", kind == "server")
    if workers < 1 or (world.size == 1 and strategy(kind, **options).needs > 1):
        pytest.skip("needs more ranks")
    made = rule(workers)
    made.per_node = per_node(world)
    return kind, options, made


def per_node(world):
    return -(-world.size // world.nodes)
