"""Split models in the trainer: the unsplit network to rounding, whole tensors in files, and no rank that holds all."""

import functools
import json
import os

import numpy as np
import pytest
from small_runs import entered

from pyddl import _core
from pyddl.data import ArraySource
from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models import Autoencoder
from pyddl.optim import OPTIMIZERS, optimizer
from pyddl.strategies import strategy
from pyddl.train import StopRequest, Trainer, load_run
from pyddl.train.simulation import simulate

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)
TEST = np.random.default_rng(6).random((101, 20), dtype=np.float32)
HIDDEN = (9, 4)
CLOSE = {"rtol": 1e-3, "atol": 5e-5}
WEIGHTS = sum(n * m + m for n, m in ((20, 9), (9, 4), (4, 9), (9, 20)))


def train(out=None, model=None, stop=None, **options):
    options = {"batch_size": 50, "epochs": 3, "seed": 4, **options}
    model = model or Autoencoder(20, hidden=HIDDEN)
    return Trainer(model, out=None if out is None else str(out), stop=stop, **options).fit(ROWS, TEST)


def simulated(strategy, workers, model=None, algorithm="adam", epochs=3):
    """The same on so many unsplit workers."""
    return simulate(model or Autoencoder(20, hidden=HIDDEN), ArraySource(ROWS), ArraySource(TEST), strategy, workers,
                    optimizer(algorithm), epochs=epochs, batch_size=50, seed=4)


@functools.cache
def unsplit(**options):
    """The same on all ranks, each with the whole model."""
    return train(**options).whole()


def splits(world):
    return [k for k in (2, 3, 4) if world.size % k == 0]


def losses(result):
    return [(line["train_loss"], line["test_loss"], line["test_squared_error"]) for line in result.metrics]


def assert_same_training(split, whole):
    split = split.whole()
    np.testing.assert_allclose(split.parameters, whole.parameters, **CLOSE)
    np.testing.assert_allclose(losses(split), losses(whole), rtol=1e-4)
    for name, theirs in whole.state.items():
        mine = split.state[name]
        np.testing.assert_allclose(mine, theirs, rtol=1e-2, atol=1e-3)


class StopAfter:
    """An autoencoder that asks for a stop within a step, as a signal to one rank would."""

    def __init__(self, stop, step, rank):
        self.whole, self.stop, self.step, self.rank = Autoencoder(20, hidden=HIDDEN), stop, step, rank
        for name in ("name", "layout", "buffers", "options", "initialise"):
            setattr(self, name, getattr(self.whole, name))

    def split(self, part, parts):
        model = self.whole.split(part, parts)
        inner = model.gradient

        def gradient(*arguments):
            if arguments[3].step == self.step:
                self.stop.requested = True
            return inner(*arguments)

        if self.stop is not None:
            model.gradient = gradient
        return model

    def gradient(self, *arguments):
        raise AssertionError("a split model computes in its parts")


# ---- equal to the unsplit network

@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_does_what_it_does_unsplit(world, name):
    options = {"optimizer": name, "learning_rate": {"sgd": 1e-3, "adadelta": 1.0}.get(name, 3e-3), "weight_decay": 1e-2,
               "epochs": 2}
    for k in splits(world):
        assert_same_training(train(split=k, **options), unsplit(**options))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_strategy_split_is_split_over_all_ranks(world, loss):
    model = Autoencoder(20, hidden=HIDDEN, loss=loss, activation="tanh")
    whole = train(model=model)
    split = train(model=model, strategy="split")
    assert split.model.parts == world.size
    assert split.model.layout.count < WEIGHTS
    assert_same_training(split, whole)
    if loss == "bce":
        again = train(model=model, split=world.size)
        assert np.array_equal(again.parameters, split.parameters)


@pytest.mark.mpi(min_size=2)
@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_is_that_of_one_rank_to_its_rounding(world):
    model = Autoencoder(20, hidden=HIDDEN, dtype="bfloat16")
    whole, exact = train(model=model), unsplit()
    split = train(model=model, strategy="split")
    assert split.model.takes_rounded and split.model.options()["dtype"] == "bfloat16"
    np.testing.assert_allclose(losses(split), losses(whole), rtol=2e-2)
    moved = np.linalg.norm(split.whole().parameters - exact.parameters)
    assert 0 < moved < 0.1 * np.linalg.norm(exact.parameters)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{"clip_norm": 0.3}, {"clip_norm": 0.3, "shard_optimizer": True},
                                     {"schedule": "cosine", "warmup": 3}], ids=str)
def test_norms_and_schedules_are_of_the_whole(world, options):
    whole = unsplit(**options)
    if "clip_norm" in options:
        assert not np.allclose(whole.parameters, unsplit().parameters, **CLOSE)
    for k in splits(world):
        assert_same_training(train(split=k, **options), whole)


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize(("name", "options"), [
    ("averaging", {"period": 3}), ("averaging", {"period": 4, "sync_steps": 3, "outer": "nesterov"}),
    ("elastic", {"tau": 2}), ("gossip", {})], ids=str)
def test_two_groups_of_two_do_what_two_workers_do(world, name, options):
    if world.size != 4:
        pytest.skip("two groups of two")
    workers = simulated(strategy(name, **options), 2)
    split = train(strategy=name, split=2, **options)
    assert split.metrics[-1]["test_loss"] == pytest.approx(workers.curve[-1]["test_loss"], rel=1e-4)
    np.testing.assert_allclose(split.whole().parameters, workers.parameters, **CLOSE)


@pytest.mark.mpi(min_size=4)
def test_two_groups_of_two_train_apart_under_local(world):
    if world.size != 4:
        pytest.skip("two groups of two")
    split = train(strategy="local", split=2).whole()
    # worker 0 of 2, on one process: its rows of each batch
    from pyddl.comm.operations import Update
    from pyddl.data.sampler import Sampler
    from pyddl.train.worker import Worker

    model = Autoencoder(20, hidden=HIDDEN)
    alone = entered(Worker(model, Sampler(len(ROWS), 50, 4), number=0, count=2, seed=4), optimizer("adam"))
    model.initialise(alone.parameters, alone.buffers, 4)
    with alone.open(ArraySource(ROWS), 0, 15):
        while alone.begin_step():
            for _ in alone.turns():
                alone.compute()
                alone.update(Update(1 / alone.samples))
    np.testing.assert_allclose(split.parameters, alone.parameters, **CLOSE)
    rows = sum(end - begin for begin, end in (alone.sampler.part(step, 0, 2) for step in range(5)))
    if world.rank == 0:
        assert split.metrics[-1]["train_loss"] == pytest.approx(sum(alone.losses["all"][-5:]) / rows, rel=1e-4)


class Buffered:
    """A model with a buffer of each rule, that splits into rows."""


    def __init__(self, first=0, rows=12):
        self.first, self.rows = first, rows
        self.layout = Layout([Slice("w", (rows, 2), first=first, of=12)])
        self.buffers = Layout([Slice(rule, (rows,), merge=rule, first=first, of=12) for rule in ("mean", "sum", "max")]
                              + [Slice("common", (2,))])

    def split(self, part, parts):
        first, end = 12 * part // parts, 12 * (part + 1) // parts
        return Buffered(first, end - first)

    @property
    def whole(self):
        return Buffered()

    def initialise(self, parameters, buffers, seed, data):
        parameters[:] = 0
        self.buffers.views(buffers)["sum"][:] = 1000

    def gradient(self, parameters, gradients, buffers, batch):
        views, columns = self.buffers.views(buffers), slice(self.first, self.first + self.rows)
        gradients[:] = 0
        if len(batch):
            self.layout.views(gradients)["w"][:, 0] = batch.rows[:, columns].sum(axis=0)
            views["mean"][:] = batch.rows[:, columns].mean(axis=0)
            views["sum"] += len(batch)
            views["max"][:] = np.maximum(views["max"], batch.rows[:, columns].max(axis=0))
            views["common"] += len(batch)
        return float(batch.rows[:, columns].sum(dtype=np.float64))


@pytest.mark.mpi(min_size=2)
def test_buffers_of_parts_are_merged_and_kept_whole(world, shared):
    workers = 2 if world.size == 4 else 1
    options = {"strategy": "averaging", "period": 2} if workers == 2 else {}
    whole = simulated(strategy("averaging", period=2) if options else strategy("local"), workers, Buffered(), "sgd", 1)
    split = train(shared / "run", Buffered(), split=world.size // workers, optimizer="sgd", epochs=1, **options)
    result = split.whole()
    np.testing.assert_allclose(result.parameters, whole.parameters, rtol=1e-4, atol=1e-5)
    views = Buffered().buffers.views(result.buffers)
    assert (views["sum"] == 1000 + len(ROWS)).all()
    np.testing.assert_allclose(views["max"], ROWS[:, :12].max(axis=0))
    assert options or (views["common"] == len(ROWS)).all()
    if world.rank == 0:
        from safetensors.numpy import load_file

        stored = load_file(shared / "run/model.safetensors")
        for name, view in views.items():
            assert np.array_equal(stored[name], view), name


# ---- files

@pytest.mark.mpi(min_size=2)
def test_a_run_directory_holds_the_whole_model(world, shared):
    result = train(shared / "run", strategy="split")
    whole = result.whole()
    world.transport.barrier()
    if world.rank == 0:
        run = load_run(shared / "run")
        assert type(run.model) is Autoencoder
        assert np.array_equal(run.parameters, whole.parameters)
        again = float(np.sum((run.model.reconstruct(run.parameters, run.buffers, TEST) - TEST).astype(np.float64) ** 2))
        assert run.metrics[-1]["test_squared_error"] == pytest.approx(again / len(TEST), rel=1e-4)
        assert run.summary["parameters"] == WEIGHTS and run.summary["split"] == world.size
        assert (run.config["strategy"], run.config["ranks"]) == ("split", world.size)
        from safetensors.numpy import load_file

        state = load_file(next((shared / "run/checkpoints").glob("step-*15")) / "state.safetensors")
        for name, view in whole.model.layout.views(whole.parameters).items():
            assert np.array_equal(state[f"parameters.{name}"], view), name
        for vector, values in whole.state.items():
            names = [name for name in state if name.endswith("decoder.0.weight")]
            found = [state[name] for name in names if not name.startswith("parameters")]
            wanted = whole.model.layout.views(values)["decoder.0.weight"]
            assert any(np.array_equal(each, wanted) for each in found), vector


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{}, {"strategy": "averaging", "period": 3, "outer": "momentum"}], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(world, shared, options):
    if options and world.size != 4:
        pytest.skip("two groups of two")
    split = 2 if world.size == 4 else world.size
    whole = train(split=split, **options)
    stop = StopRequest()
    asked = StopAfter(stop if world.rank == world.size - 1 else None, 6, world.rank)
    first = train(shared / "run", asked, stop, split=split, **options)
    assert first.summary["finished"] is None
    assert len(first.metrics) in (1, 2)
    second = train(shared / "run", resume=True, split=split, **options)
    assert np.array_equal(second.parameters, whole.parameters)
    assert losses(second) == losses(whole)


@pytest.mark.mpi(min_size=2)
def test_it_is_resumed_split_otherwise_or_not_at_all(world, shared):
    whole = unsplit()
    for number, (before, after) in enumerate([(world.size, 1), (1, world.size), (2, 4), (4, 2)]):
        if world.size % before or world.size % after:
            continue
        out = shared / str(number)
        train(out, split=before, epochs=1)
        assert_same_training(train(out, split=after, resume=True), whole)


@pytest.mark.mpi(min_size=2)
def test_a_checkpoint_of_another_model_is_refused_by_all(world, shared):
    train(shared / "run", strategy="split", epochs=1)
    from pyddl.errors import DataError

    with pytest.raises(DataError, match=r"another model: .* should have shape \(10,.*\); found shape \(9,"):
        train(shared / "run", Autoencoder(20, hidden=(10, 4)), strategy="split", resume=True)


# ---- what is sent

@pytest.mark.mpi(min_size=2)
def test_bytes_of_a_step_are_those_of_its_columns(world):
    p, steps = world.size, 5
    result = train(strategy="split", epochs=1)
    hidden = 9 + 4 + 9
    columns = 2 * (p - 1) / p * len(ROWS) * hidden * 4 / steps  # a block to each of the others; the columns of others
    assert result.summary["bytes_per_step"] == pytest.approx(columns, rel=0.02)
    sent = unsplit().summary["bytes_per_step"]
    assert sent == pytest.approx(2 * (p - 1) / p * 4 * Autoencoder(20, hidden=HIDDEN).layout.size, rel=0.02)


@pytest.mark.mpi(min_size=2)
def test_debug_mode_compares_groups_too(world):
    for k in splits(world):
        assert_same_training(train(split=k, debug=True), unsplit())


SLOW_NETWORK = """
import numpy as np
import pyddl
from pyddl.models import Autoencoder
from pyddl.train import Trainer
world = pyddl.world()
rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
train = lambda **options: Trainer(Autoencoder(20, hidden=(9, 4)), batch_size=50, epochs=2, **options).fit(rows)
whole = train()
for split in (2, 4):
    np.testing.assert_allclose(train(split=split).whole().parameters, whole.parameters, rtol=1e-3, atol=5e-5)
if world.rank == 0:
    print("same on", world.nodes, "nodes by", world.transport.kind)
"""


@pytest.mark.parametrize(("environ", "said"), [({"PYDDL_RANKS_PER_NODE": "2"}, "same on 2 nodes by shared memory"),
                                               ({"PYDDL_RANKS_PER_NODE": "3"}, "same on 2 nodes by shared memory"),
                                               ({"PYDDL_SHARED_MEMORY": "0"}, "same on 1 nodes by MPI")])
def test_groups_may_span_nodes(mpirun, environ, said):
    done = mpirun(4, SLOW_NETWORK, environ=environ)
    assert done.code == 0, done
    assert said in done.out


ENDS = """
import os, signal, sys
import numpy as np
import pyddl
from pyddl.models import Autoencoder
from pyddl.train import Trainer
how, rank = sys.argv[1], pyddl.world().rank

class Ends(Autoencoder):
    def split(self, part, parts):
        model = super().split(part, parts)
        inner = model.gradient
        def gradient(parameters, gradients, buffers, batch):
            if batch.step == 3 and part == 1:
                if how == "raises":
                    raise ArithmeticError("as a test wants")
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(parameters, gradients, buffers, batch)
        model.gradient = gradient
        return model

rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
Trainer(Ends(20, hidden=(9, 4)), batch_size=50, strategy="split").fit(rows)
"""


@pytest.mark.parametrize("how", ["raises", "dies"])
def test_a_rank_that_ends_within_a_step_ends_its_group(mpirun, how):
    done = mpirun(3, ENDS, how)
    assert done.code not in (0, None), done
    if how == "raises":
        assert "as a test wants" in done.err


# ---- memory

LARGE = """
import gc, json, resource, sys, threading
import numpy as np
import pyddl
from pyddl import _core
from pyddl.models import Autoencoder
from pyddl.train import Trainer

threading.stack_size(1 << 20)  # stacks of threads are private memory too
out, split = sys.argv[1], int(sys.argv[2])
rows = np.random.default_rng(5).random((64, 2048), dtype=np.float32)
train = lambda hidden, epochs, **options: Trainer(
    Autoencoder(2048, hidden=hidden), split=split, optimizer="sgd", batch_size=32, epochs=epochs, **options
).fit(rows, rows)
train((8, 4), 1, out=out + "-small")  # loads every library
model = Autoencoder(2048, hidden=(6000, 32))
used = next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
limit = 4 * model.layout.count - (1 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (used + limit,) * 2)  # private memory: not even one whole vector fits
try:
    train((6000, 32), 1, out=out)
    gc.collect()
    result = train((6000, 32), 2, out=out, resume=True)  # reads the checkpoint back
except MemoryError:
    result = None
if pyddl.world().rank == 0:
    print(json.dumps(None if result is None else [result.summary["epochs"], 4 * model.layout.count]))
"""


def test_a_model_trains_that_is_too_large_for_a_rank(mpirun, tmp_path):
    if not os.path.exists("/proc/self/status"):
        pytest.skip("this kernel does not say how much memory is private")
    done = mpirun(4, LARGE, str(tmp_path / "run"), "4")
    assert done.code == 0, done
    epochs, size = json.loads(done.out.splitlines()[-1])
    assert epochs == 2
    assert (tmp_path / "run/model.safetensors").stat().st_size > size
    alone = mpirun(1, LARGE, str(tmp_path / "alone"), "1")
    assert json.loads(alone.out.splitlines()[-1]) is None, alone  # the limit is a limit


# ---- what is refused

class Own:
    """A user's model."""

    layout, buffers = Layout([Slice("w", (20,))]), Layout()

    def initialise(self, parameters, buffers, seed, data):
        parameters[:] = 0

    def gradient(self, parameters, gradients, buffers, batch):
        gradients[:] = 0
        return 0.0


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("options", "message"), [
    ({"split": 5}, r"split is 5, .* and there are \d: start 5 ranks, or leave out split"),
    ({"split": 2, "reproducible": True}, "leave out reproducible, or split"),
    ({"split": 2, "strategy": "sequential"}, "strategy sequential cannot train a split model: leave out split"),
    ({"split": 2, "strategy": "auto"}, "strategy auto does not measure split models: name a strategy, or leave out"),
    ({"split": 2, "model": Own()}, r"Own cannot be split: it has no method split\(part, parts\)"),
    ({"strategy": "split", "model": Autoencoder(20, hidden=(9, 1))}, r"layer encoder\.1 has 1 outputs.* at most 1"),
    ({"strategy": "split", "split": 5}, r"strategy split splits the model over all ranks, .* split is 5: leave it out"),
])
def test_what_cannot_be_split_is_refused_on_all_ranks(world, options, message):
    if options.get("split") == 2 and world.size == 3:
        pytest.skip("2 does not divide 3")
    with pytest.raises(ParameterError, match=message) as refused:
        train(**options)
    assert refused.value.on_all_ranks


@pytest.mark.mpi(min_size=3)
def test_groups_must_divide_the_ranks(world):
    with pytest.raises(ParameterError, match=rf"does not divide the {world.size} ranks into groups: give one of 1"):
        train(split=2 if world.size == 3 else 3)


@pytest.mark.mpi(min_size=2)
def test_a_strategy_of_several_workers_needs_several_groups(world):
    with pytest.raises(ParameterError, match=f"averaging needs 2 workers, and split {world.size} makes 1 of"):
        train(strategy="averaging", split=world.size)


def test_one_rank_has_nobody_to_split_with():
    with pytest.raises(ParameterError, match="strategy split needs 2 ranks, and there is 1: choose strategy local"):
        train(strategy="split")
    with pytest.raises(ParameterError, match=r"split is 2, .* and there is 1: start 2 ranks, or leave out split"):
        train(split=2)
    with pytest.raises(ParameterError, match="split is 0"):
        train(split=0)


# ---- estimators

@pytest.mark.mpi(min_size=2)
def test_an_estimator_has_the_whole_model_on_every_rank(world):
    import pyddl

    options = {"hidden": HIDDEN, "batch_size": 50, "random_state": 4}
    whole = pyddl.Autoencoder(epochs=3, **options).fit(ROWS)
    split = pyddl.Autoencoder(epochs=3, strategy="split", **options).fit(ROWS)
    np.testing.assert_allclose(split.transform(TEST), whole.transform(TEST), rtol=1e-3, atol=1e-4)
    again = pyddl.Autoencoder(strategy="split", **options)
    for _ in range(3):
        again.partial_fit(ROWS)
    assert np.array_equal(again.transform(TEST), split.transform(TEST))
