"""Deep belief nets on many ranks: one net under allreduce, every strategy learns, runs go on within each stage."""

import numpy as np
import pytest
from small_runs import same_everywhere
from support import assert_reproducible, from_here_on_alone

import pyddl.data
from pyddl.data import ArraySource, RandomSource
from pyddl.data.joined import labelled_part
from pyddl.errors import DataError, ParameterError
from pyddl.models import Autoencoder, for_data
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.simulation import simulate

RANDOM = np.random.default_rng(5)
ROWS = (RANDOM.random((203, 20)) < 0.3).astype(np.float32)
DATA = ArraySource(ROWS, labels=RANDOM.integers(0, 3, 203))
TEST = ArraySource(ROWS[:101], labels=DATA.labels[:101])
KINDS = {
    "autoencoder": {"finetune": "autoencoder", "corrupt": 0.1},
    "classifier": {"finetune": "classifier"},
    "stack": {"chain": "pcd", "chains": 9},
    "classic": {"finetune": "autoencoder", "centering": False},
}
STRATEGIES = {
    "averaging": {"period": 3},
    "elastic": {"tau": 2},
    "gossip": {},
    "sequential": {"replicas": 3},
    "server": {},
    "async": {"strategy": "server", "mode": "async"},
    "sharded": {"strategy": "allreduce", "shard_optimizer": True},
}


def model_of(kind, data=DATA, hidden=(9, 7, 5), **options):
    return for_data("dbn", data, **{"hidden": hidden, "pretrain_epochs": (2,), **KINDS[kind], **options})


def train(kind, out=None, passes=None, **options):
    options = {"optimizer": "adamw", "learning_rate": 0.01, "epochs": 2, "batch_size": 50, "seed": 4, **options}
    return Trainer(model_of(kind), out=None if out is None else str(out), **options).fit(DATA, TEST, passes=passes)


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_together_are_one(world, monkeypatch, kind):
    together = train(kind)
    assert same_everywhere(world, together.parameters)
    from_here_on_alone(monkeypatch)
    one = train(kind, strategy="local")
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=5e-5)
    np.testing.assert_allclose(together.buffers, one.buffers, rtol=1e-3, atol=2e-5)
    assert [set(line) for line in together.metrics] == [set(line) for line in one.metrics]
    for found, expected in zip(together.metrics, one.metrics, strict=True):
        for name in found:
            if name.startswith(("train_", "test_")):
                assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3), (found["epoch"], name)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns(world, shared, name):
    digits = pyddl.data.load("digits")
    model = model_of("autoencoder", digits, hidden=(32, 16), corrupt=0.0, pretrain_epochs=(3,),
                     pretrain_learning_rate=(0.2, 0.02))
    options = {"strategy": name, **STRATEGIES[name]}
    result = Trainer(model, optimizer="adamw", learning_rate=0.01, schedule="cosine", epochs=4, batch_size=50, seed=1,
                     out=str(shared / "run"), **options).fit(digits)
    errors = [line["test_squared_error"] for line in result.metrics]
    assert errors[2] < errors[0] and errors[-1] < 0.98 * errors[6], errors
    assert same_everywhere(world, result.parameters)


@pytest.mark.mpi
@pytest.mark.parametrize(("kind", "passes"), [("autoencoder", 1), ("autoencoder", 2), ("autoencoder", 3),
                                              ("autoencoder", 7), ("classifier", 5), ("stack", 5)])
def test_a_run_goes_on_within_each_stage_and_between_them(world, monkeypatch, tmp_path, kind, passes):
    shared = world.transport.gather_objects(tmp_path)[0]
    whole = train(kind)
    train(kind, out=shared / "run", passes=passes)
    world.transport.barrier()
    if world.rank == 0:
        from_here_on_alone(monkeypatch)
        second = train(kind, out=shared / "run", resume=True)
        assert len(second.metrics) == len(whole.metrics) == (6 if kind == "stack" else 8)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=5e-5)
        np.testing.assert_allclose(second.buffers, whole.buffers, rtol=1e-3, atol=2e-5)
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_a_classic_net_is_reproducible_bit_for_bit(world, monkeypatch):
    assert_reproducible(world, monkeypatch, lambda: train("classic", reproducible=True))


@pytest.mark.mpi(min_size=2)
def test_only_what_is_trained_travels(world):
    """The last level's stage sends its few parameters, not those of the whole stack."""
    result = Trainer(model_of("stack"), epochs=1, batch_size=50, seed=4, optimizer="sgd").fit(DATA, passes=2)
    assert 0 < result.summary["bytes_per_step"] < 4 * result.model.layout.size


@pytest.mark.mpi(min_size=2)
def test_a_simulation_gives_what_as_many_ranks_give(world):
    run = simulate(model_of("autoencoder"), DATA, TEST, strategy("allreduce"), world.size,
                   optimizer("adamw", learning_rate=0.01), epochs=2, batch_size=50, seed=4)
    np.testing.assert_allclose(run.parameters, train("autoencoder").parameters, rtol=1e-3, atol=5e-5)


# ---- rows whose labels are known


def test_a_classifier_is_trained_on_the_labelled_rows_alone():
    few = labelled_part(DATA, 30, 4)
    expected = Trainer(model_of("classifier"), optimizer="adamw", learning_rate=0.01, epochs=2, batch_size=50,
                       seed=4).fit(few, TEST)
    found = train("classifier", labelled=30)
    assert len(few) == 30 and np.array_equal(found.parameters, expected.parameters)


def test_labelled_is_refused_where_no_labels_are_needed():
    with pytest.raises(ParameterError, match="labelled is 30, and model autoencoder as given needs no labels: leave"):
        Trainer(Autoencoder(20, (4, 3)), labelled=30).fit(DATA)
    with pytest.raises(DataError, match="has no labels"):
        Trainer(model_of("classifier"), labelled=30).fit(RandomSource(40, 20))
