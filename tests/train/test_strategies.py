"""Strategies in the trainer: every rank ends with one model, evaluation disturbs nothing, a stop loses nothing."""

import numpy as np
import pytest
from small_runs import ROWS, TEST, Buffered, StopAfter, entered, same_everywhere, train

from pyddl.comm import threads
from pyddl.data import ArraySource
from pyddl.data.sampler import Sampler
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import ALIGNMENT
from pyddl.models import Autoencoder
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import StopRequest, Trainer
from pyddl.train.progress import Progress
from pyddl.train.simulation import simulate
from pyddl.train.worker import Worker

STRATEGIES = [
    {"strategy": "averaging", "period": 3},
    {"strategy": "averaging", "period": 4, "sync_steps": 3, "node_period": 2, "outer": "nesterov"},
    {"strategy": "elastic", "tau": 2},
    {"strategy": "elastic", "tau": 3, "elastic_momentum": 0.5, "optimizer": "sgd", "learning_rate": 0.05},
    {"strategy": "gossip"},
    {"strategy": "sequential", "replicas": 3},
]


def name(options):
    return "-".join(str(value) for value in options.values())


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", STRATEGIES, ids=name)
def test_all_ranks_end_with_the_model_that_was_evaluated(world, options):
    result = train(**options)
    assert same_everywhere(world, result.parameters)
    losses = [line["test_loss"] for line in result.metrics]
    assert losses[-1] < losses[0]
    model = Autoencoder(20, hidden=(8, 3))
    again = float(np.sum((model.reconstruct(result.parameters, result.buffers, TEST) - TEST).astype(np.float64) ** 2))
    assert result.metrics[-1]["test_squared_error"] == pytest.approx(again / len(TEST), rel=1e-4)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", STRATEGIES, ids=name)
def test_a_resumed_run_is_the_uninterrupted_one_and_evaluation_disturbs_nothing(world, shared, options):
    whole = train(**options)
    stop = StopRequest()
    asked = StopAfter(stop, 6) if world.rank == 1 else None
    first = train(shared / "run", asked, stop, **options)
    assert first.summary["finished"] is None
    second = train(shared / "run", resume=True, **options)
    assert np.array_equal(second.parameters, whole.parameters)
    assert [m["test_loss"] for m in second.metrics] == [m["test_loss"] for m in whole.metrics]
    assert [m["train_loss"] for m in second.metrics] == [m["train_loss"] for m in whole.metrics]
    without = train(epochs=1, **options)  # the settled end of an epoch is not where the next one begins
    longer = train(epochs=4, test=None, **options)
    assert np.array_equal(longer.parameters, whole.parameters)
    assert without.metrics[0]["test_loss"] == whole.metrics[0]["test_loss"]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, *STRATEGIES], ids=name)
def test_debug_mode_finds_no_fault_in_a_run_that_writes_and_resumes(world, shared, options):
    train(shared / "run", debug=True, epochs=1, **options)
    assert train(shared / "run", debug=True, epochs=2, resume=True, **options).summary["epochs"] == 2


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [*({"strategy": "averaging", "period": period} for period in (1, 2, 7)),
                                     {"strategy": "averaging", "sync_steps": 3, "period": 7},
                                     {"strategy": "averaging", "sync_steps": 10**6},
                                     {"strategy": "sequential", "replicas": 5}], ids=name)
def test_buffers_are_merged_by_their_rules(world, options):
    model = Buffered()
    result = train(model=model, optimizer="sgd", epochs=3, **options)
    views = model.buffers.views(result.buffers)
    assert views["seen"][0] == 1000 + 3 * len(ROWS)
    assert views["top"][0] == len(ROWS) - 1
    assert same_everywhere(world, result.buffers)


@pytest.mark.mpi
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_sequential_gives_the_same_bits_on_any_number_of_ranks(world, replicas):
    together = train(strategy="sequential", replicas=replicas)
    averaged = simulate(Autoencoder(20, hidden=(8, 3)), ArraySource(ROWS), ArraySource(TEST), strategy(
        "averaging", period=1), replicas, optimizer("adam"), epochs=4, batch_size=50, seed=4) if replicas > 1 else None
    alone = simulate(Autoencoder(20, hidden=(8, 3)), ArraySource(ROWS), ArraySource(TEST), strategy(
        "sequential", replicas=replicas), 1, optimizer("adam"), epochs=4, batch_size=50, seed=4)
    assert np.array_equal(together.parameters, alone.parameters)
    assert averaged is None or np.array_equal(together.parameters, averaged.parameters)
    assert together.metrics[-1]["test_loss"] == pytest.approx(alone.curve[-1]["test_loss"], rel=1e-6)
    assert together.summary["time"]["compute"] > 0


class Told(Progress):
    """Keeps the title."""

    def begin(self, title, *rest):
        self.title = title


@pytest.mark.mpi(min_size=2)
def test_idle_ranks_are_named_at_the_start(world):
    told = Told()
    train(strategy="sequential", replicas=1, progress=told)
    if world.rank == 0:
        ranks = ", ".join(map(str, range(1, world.size)))
        assert f"{'ranks' if world.size > 2 else 'rank'} {ranks} will be idle: sequential has 1 replica" in told.title


@pytest.mark.parametrize("options", STRATEGIES[:-1], ids=name)
def test_one_rank_is_offered_local(options):
    with pytest.raises(ParameterError, match="needs 2 ranks, and there is 1: choose strategy local"):
        train(**options)


@pytest.mark.parametrize(("options", "message"), [
    ({"strategy": "local", "period": 3}, "period is an option of strategy averaging and gossip; the strategy here is"),
    ({"strategy": "averaging", "period": 0}, "period is 0"),
    ({"strategy": "elastic", "tau": 0}, "tau is 0"),
    ({"strategy": "sequential", "replicas": 51}, "replicas is 51, but a batch has 50 rows"),
    ({"strategy": "gossip", "tau": 3}, "tau is an option of strategy elastic; the strategy here is gossip"),
    ({"strategy": "allreduce", "period": 3}, "period is an option of strategy averaging and gossip"),
])
def test_options_of_strategies_are_checked(options, message):
    with pytest.raises(ParameterError, match=message):
        train(**options)


@pytest.mark.parametrize(("chosen", "expected"), [({"strategy": "local"}, 2),
                                                  ({"strategy": "sequential", "replicas": 4}, 1),
                                                  ({"strategy": strategy("sequential", replicas=4)}, 1)],
                         ids=["local", "sequential", "an object"])
def test_threads_are_for_the_rows_of_a_turn(monkeypatch, chosen, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: (0, 1))
    model = Autoencoder(20, hidden=(8, 3))
    model.flops = 1.5 * threads.WORK_OF_A_THREAD / 50
    summary = Trainer(model, batch_size=50, epochs=1, **chosen).fit(ROWS).summary
    assert summary["threads"] == expected


def test_more_replicas_than_rows_are_refused():
    with pytest.raises(ParameterError, match=r"replicas is 12, but a batch has 10 rows; .* give at most 10"):
        Trainer(Autoencoder(20, hidden=(8, 3)), strategy="sequential", replicas=12, batch_size=50).fit(ROWS[:10])


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"optimizer": "momentum", "learning_rate": 0.01, "weight_decay": 1e-3}],
                         ids=name)
def test_sharded_optimizer_state_changes_nothing_but_memory(world, options):
    whole = train(**options)
    sharded = train(shard_optimizer=True, **options).whole()
    if world.transport.kind == "MPI" or world.nodes > 1:  # adds in an order of its own
        np.testing.assert_allclose(sharded.parameters, whole.parameters, rtol=1e-3, atol=2e-5)
    else:
        assert np.array_equal(sharded.parameters, whole.parameters)
        assert all(np.array_equal(sharded.state[name], vector) for name, vector in whole.state.items())
    clipped = train(shard_optimizer=True, clip_norm=0.5, **options)
    np.testing.assert_allclose(clipped.parameters, train(clip_norm=0.5, **options).parameters, rtol=1e-3, atol=2e-5)


@pytest.mark.mpi
def test_each_rank_keeps_its_share_of_the_state(world):
    model = Autoencoder(20, hidden=(8, 3))
    worker = Worker(model, Sampler(100, 10), number=world.rank, count=world.size, sharded=True)
    entered(worker, optimizer("adam"))
    held = world.transport.gather(np.array([sum(vector.size for vector in worker.phases[0].state)], dtype=np.float64))
    assert sum(each[0] for each in held) == 2 * model.layout.size
    assert max(each[0] for each in held) <= 2 * (model.layout.size / world.size + ALIGNMENT)


@pytest.mark.mpi(min_size=2)
def test_a_result_in_shares_is_gone_on_from_as_it_is_or_whole(world):
    def fit(start=None, epochs=3, **options):
        return Trainer(Autoencoder(20, hidden=(8, 3)), batch_size=50, epochs=epochs, seed=4, **options).fit(
            ROWS, TEST, start=start)

    first, expected = fit(epochs=2, shard_optimizer=True), fit()
    assert all(mine.size < first.parameters.size for mine in first.state.values())
    for again in (fit(first, shard_optimizer=True), fit(first.whole(), shard_optimizer=True), fit(first.whole())):
        np.testing.assert_allclose(again.parameters, expected.parameters, rtol=1e-3, atol=2e-5)
    with pytest.raises(ShapeError, match=r"has shape .* this model needs .*: whole\(\) of that result gathers shares"):
        fit(first)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("then", [True, False])
def test_a_sharded_run_is_resumed_with_or_without_shards(world, shared, then):
    whole = train(shard_optimizer=True)
    stop = StopRequest()
    train(shared / "run", StopAfter(stop, 7) if world.rank == 0 else None, stop, shard_optimizer=True)
    second = train(shared / "run", resume=True, shard_optimizer=then)
    np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=2e-5)
    if then:
        assert np.array_equal(second.parameters, whole.parameters)


@pytest.mark.mpi
def test_reproducible_training_with_shards_has_the_bits_of_training_without(world):
    if world.size == 3:
        pytest.skip("reproducible needs a divisor of 8")
    whole, sharded = (train(reproducible=True, shard_optimizer=each) for each in (False, True))
    assert np.array_equal(whole.parameters, sharded.parameters)
    with pytest.raises(ParameterError, match="leave out reproducible, clip_norm or shard_optimizer"):
        train(reproducible=True, shard_optimizer=True, clip_norm=1.0)
