"""Buffers of every merge rule, on any number of ranks: as one process has them."""

import numpy as np
import pytest
from phased_models import FEATURES, Kept, Pair, noise
from phased_reference import EPOCHS, ROWS, SEED, logged
from phased_runs import alone, simulated, train

from pyddl.comm.machine import Machine
from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.stages import Phase, Stage
from pyddl.strategies import strategy
from pyddl.strategies.server import Server
from pyddl.train import StopRequest

RULES = ("mean", "sums", "count", "seen", "top")


def kept(model, buffers):
    return {name: view.copy() for name, view in model.buffers.views(buffers).items()}


def by_one(world, model, **options):
    """What one process gives."""
    with alone(world):
        return train(model, **options)


def assert_buffers(model, got, wanted, names=None, **tolerance):
    got, wanted = kept(model, got), kept(model, wanted)
    for name in names or got:
        np.testing.assert_allclose(got[name], wanted[name], err_msg=name, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


def in_checkpoint(model, run):
    from safetensors.numpy import load_file

    folder = run / "checkpoints"
    tensors = load_file(folder / (folder / "latest").read_text().strip() / "state.safetensors")
    return {s.name: tensors[f"buffers.{s.name}"] for s in model.buffers}


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}], ids=str)
@pytest.mark.parametrize("batch_sum", [True, False])
def test_together_they_are_one_process_s_on_every_rank_and_in_the_checkpoint(world, shared, batch_sum, options):
    model = Kept(batch_sum=batch_sum)
    one = by_one(world, Kept(batch_sum=batch_sum))
    result = train(model, shared / "run", **options)
    np.testing.assert_allclose(result.parameters, one.parameters, rtol=1e-4, atol=1e-5)
    loose = {} if batch_sum or world.size == 1 else {"rtol": 0.02}  # slices are uneven
    assert_buffers(model, result.buffers, one.buffers, ["mean"], **loose)
    assert_buffers(model, result.buffers, one.buffers, [s.name for s in model.buffers if s.name != "mean"])
    everywhere = world.transport.gather(result.buffers.astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)
    world.transport.barrier()
    saved = in_checkpoint(model, shared / "run")
    assert all(np.array_equal(saved[name], value) for name, value in kept(model, result.buffers).items())
    run = simulated(strategy("allreduce", **options), world.size, Kept(batch_sum=batch_sum))
    np.testing.assert_allclose(run.parameters, one.parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.mpi
def test_the_running_mean_of_even_slices_is_one_process_s(world):
    """The case of the issue."""
    if world.size == 3:
        pytest.skip("slices are uneven")
    one = by_one(world, Kept(chains=0), rows=ROWS[:64])
    result = train(Kept(chains=0), rows=ROWS[:64])
    assert_buffers(Kept(chains=0), result.buffers, one.buffers, rtol=1e-5)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("batch_sum", [True, False])
def test_a_stop_and_another_number_of_ranks_change_nothing_but_rounding(world, shared, batch_sum):
    class Halting(Kept):
        name = "kept"

        def gradient(self, parameters, gradients, buffers, batch):
            stop.requested |= batch.step == self.halt and world.rank == world.size - 1
            return super().gradient(parameters, gradients, buffers, batch)

    def model(halt=-1):
        made = Halting(batch_sum=batch_sum)
        made.halt = halt
        return made

    stop = StopRequest()
    one = by_one(world, model())
    assert train(model(7), shared / "run", stop).summary["finished"] is None
    world.transport.barrier()
    with alone(world):
        if world.rank == 0:
            train(model(), shared / "run", resume=True, epochs=2)
    world.transport.barrier()
    last = train(model(), shared / "run", resume=True)
    np.testing.assert_allclose(last.parameters, one.parameters, rtol=1e-4, atol=1e-5)
    assert_buffers(model(), last.buffers, one.buffers, ["mean"], rtol=1e-4 if batch_sum else 0.02)
    assert_buffers(model(), last.buffers, one.buffers, [s.name for s in model().buffers if s.name != "mean"])


@pytest.mark.mpi
@pytest.mark.parametrize("chains", [1, 5, 9])
def test_reproducible_training_has_the_same_chains_to_the_bit(world, chains):
    """Also with fewer chains than micro-shards, and in steps in which some ranks have no rows."""
    if world.size == 3:
        pytest.skip("reproducible needs a divisor of 8")
    one = by_one(world, Kept(chains=chains, merged=False), reproducible=True)
    result = train(Kept(chains=chains, merged=False), reproducible=True)
    assert np.array_equal(result.parameters, one.parameters) and np.array_equal(result.buffers, one.buffers)
    ages = kept(Kept(chains=chains, merged=False), result.buffers)["age"]
    assert ages.tolist() == [5 * EPOCHS + 0.5] * chains
    plain = by_one(world, Kept(chains=chains, merged=False))
    np.testing.assert_allclose(result.parameters, plain.parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_sum", [True, False])
def test_reproducible_training_refuses_buffers_that_move(batch_sum):
    with pytest.raises(ParameterError, match=r"this model keeps buffers \(mean, sums, .*train without reproducible"):
        train(Kept(batch_sum=batch_sum), reproducible=True)


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, {"strategy": "server"}], ids=str)
@pytest.mark.parametrize("chains", [1, 7])
def test_chains_are_one_process_s_on_any_number_of_ranks(world, chains, options):
    """More ranks than chains; the last step of an epoch has 2 rows."""
    if world.size == 1 and options.get("strategy"):
        pytest.skip("needs more ranks")
    given = {"rows": ROWS[:74], "batch_size": 8}
    one = by_one(world, Kept(chains=chains, merged=False), **given)
    result = train(Kept(chains=chains, merged=False), **given, **options)
    np.testing.assert_allclose(result.parameters, one.parameters, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.buffers, one.buffers, rtol=1e-4, atol=1e-5)


STRATEGIES = [{"strategy": "averaging", "period": 3}, {"strategy": "elastic", "tau": 2}, {"strategy": "gossip"},
              {"strategy": "sequential", "replicas": 3}, {"strategy": "server"},
              {"strategy": "server", "mode": "async"}, {"strategy": "server", "mode": "ssp", "servers": 2},
              {"strategy": "elastic", "mode": "async", "tau": 2}]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_every_strategy_keeps_totals_and_all_chains(world, shared, options):
    servers = options.get("servers", int("mode" in options or options["strategy"] == "server"))
    if world.size <= servers:
        pytest.skip("needs more ranks")
    model = Kept(chains=9)
    result = train(model, shared / "run", **options)
    got = kept(model, result.buffers)
    assert got["seen"][0] == len(ROWS) * EPOCHS + 0.5 and got["top"][0] == len(ROWS) - 1
    np.testing.assert_allclose(got["sums"] / got["count"], ROWS.mean(axis=0), atol=0.15)
    assert (got["age"] > 0.5).all() or "mode" in options  # a worker may get no ticket
    everywhere = world.transport.gather(result.buffers.astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)
    again = train(model, shared / "run", resume=True, epochs=EPOCHS + 1, **options)
    assert kept(model, again.buffers)["seen"][0] == len(ROWS) * (EPOCHS + 1) + 0.5
    chosen = strategy(options["strategy"], **{k: v for k, v in options.items() if k != "strategy"})
    run = simulated(chosen, world.size - servers, Kept(chains=9), machine=Machine(workers_per_node=world.size))
    if not servers:
        np.testing.assert_array_equal(run.parameters, result.parameters)


@pytest.mark.mpi
def test_each_local_worker_has_totals_and_chains_of_its_own(world):
    model = Kept()
    result = train(model, strategy="local")
    got = kept(model, result.buffers)
    mine = sum((16 * (world.rank + 1) // world.size - 16 * world.rank // world.size) * 4
               + 11 * (world.rank + 1) // world.size - 11 * world.rank // world.size for _ in range(EPOCHS))
    assert got["seen"][0] == mine + 0.5 and got["age"].tolist() == [5 * EPOCHS + 0.5] * model.chains


class Halved(Pair):
    """Its critic asks for a sum over the batch, and keeps it; its generator does not."""

    buffers = Layout([Slice("rows", (1,))])

    def gradient(self, parameters, gradients, buffers, batch):
        if batch.phase == "critic":
            total = batch.sum(np.array([batch.rows.sum(), len(batch)], dtype=np.float32))
            buffers[0] = 0.9 * buffers[0] + total[0] / max(1, total[1])
        loss = super().gradient(parameters, gradients, buffers, batch)
        if batch.phase == "critic":  # what was summed enters the gradient
            self.layout.views(gradients)["w"][:] += np.float32(0.1 * len(batch)) * buffers[0]
        return loss


@pytest.mark.mpi
def test_one_phase_may_ask_for_sums_over_the_batch(world):
    one, result = by_one(world, Halved()), train(Halved())
    np.testing.assert_allclose(result.parameters, one.parameters, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.buffers, one.buffers, rtol=1e-5)
    run = simulated(strategy("allreduce"), world.size, Halved())
    np.testing.assert_allclose(run.parameters, one.parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_in_the_simulation_as_well(workers):
    """Sums over the batch, more workers than chains or rows."""
    for make in (Halved, lambda: Kept(batch_sum=True), lambda: Kept(merged=False)):
        one, many = (simulated(strategy("allreduce"), each, make()) for each in (1, workers))
        np.testing.assert_allclose(many.parameters, one.parameters, rtol=1e-4, atol=1e-5)


# ---- what asynchronous training means


class Constant(Pair):
    """Two phases with gradients of 1 per row, and noise to keep nothing alike."""

    def __init__(self):
        rule = {"optimizer": "sgd", "learning_rate": 0.01}
        self.stages = (Stage((Phase("critic", ("critic",), optimizer=rule),
                              Phase("generator", ("generator",), every=2, optimizer=rule))),)

    def sums(self, p, rows, batch):
        assert noise(batch.seed, batch.step, batch.turn, batch.index).shape == (len(rows), FEATURES)
        names = ("w", "q") if batch.phase == "critic" else ("scale", "shift")
        return 0.0, {name: np.full(FEATURES, float(len(rows))) for name in names}


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
@pytest.mark.parametrize("options", [{"mode": "async"}, {"mode": "ssp", "bound": 0}, {"mode": "ssp", "bound": 3},
                                     {"mode": "async", "push_every": 3}, {"mode": "ssp", "push_every": 3},
                                     {"mode": "async", "servers": 2}], ids=str)
def test_with_a_constant_gradient_many_move_as_far_as_one(workers, options):
    machine = Machine(jitter=0.5, uneven=0.5, straggler=3)
    chosen = strategy("server", **options)
    run = simulated(chosen, workers, Constant(), machine=machine)
    one = simulated(strategy("local"), 1, Constant())
    first = Constant().layout.zeros()
    Constant().initialise(first, None, SEED, None)
    moved, wanted = ({name: float(np.mean(view)) for name, view in Constant().layout.views(each - first).items()}
                     for each in (run.parameters, one.parameters))
    assert moved == pytest.approx(wanted, rel=1e-5)
    assert wanted["w"] == pytest.approx(-0.01 * 5 * EPOCHS, rel=1e-5)
    assert wanted["shift"] == pytest.approx(-0.01 * (5 * EPOCHS // 2), rel=1e-5)


def test_pushes_of_one_clock_count_alike():
    """Bulk synchronous: each of 4 workers' pushes moves the served vector equally far, whoever comes first."""
    chosen = logged(Server)(mode="ssp", bound=0)
    simulated(chosen, 4, Constant(), machine=Machine(jitter=0.5, straggler=3))
    rates = [entry[2] for entry in chosen.logs[0] if entry[0] == "update" and entry[1] == "critic"]
    even = [rate for rate in rates if rate == 0.25]
    assert len(even) == 4 * 4 * EPOCHS and sum(rates) == pytest.approx(5 * EPOCHS, rel=1e-6)
