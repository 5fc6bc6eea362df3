"""Stages: one after another, against a plain loop; stops, resumes and what stays as it is."""

import json

import numpy as np
import pytest
from phased_models import Pair, Staged
from phased_reference import EPOCHS, ROWS, Together, first_values, flat, follow, views_of
from phased_runs import KINDS, alone, assert_close, checked, per_node, simulated, train

from pyddl.comm.machine import Machine
from pyddl.models.stages import Phase, Stage
from pyddl.strategies import strategy
from pyddl.train import StopRequest

LASTS = {"epochs": {"epochs": 2}, "steps": {"steps": 7}}  # 5 steps are an epoch
LAST = {"epochs": 9, "steps": 6}  # step of stage 1


class Asking(Staged):
    """Asks for a stop in one turn, as a signal would."""

    def __init__(self, stop, step, **lasts):
        super().__init__(**lasts)
        self.stop, self.step = stop, step

    def sums(self, p, rows, batch):
        self.stop.requested |= batch.step == self.step
        return super().sums(p, rows, batch)


@pytest.mark.mpi
@pytest.mark.parametrize("lasts", LASTS)
@pytest.mark.parametrize("name", KINDS)
def test_every_strategy_follows_the_reference(world, name, lasts):
    kind, options, rule = checked(world, name)
    model = Staged(**LASTS[lasts])
    result = train(model, strategy=kind, **options)
    wanted = follow(Staged(**LASTS[lasts]), rule)
    assert model.calls == 1 and len(result.metrics) == len(wanted.lines) == 2 + EPOCHS
    if kind == "local":
        if world.rank == 0:
            assert_close(flat(model, result.parameters), wanted.parameters)
        return
    assert_close(flat(model, result.parameters), wanted.parameters)
    for line, expected in zip(result.metrics, wanted.lines, strict=True):
        (loss,) = (value for name, value in expected.items() if name.startswith("train_loss"))
        assert line["train_loss"] == pytest.approx(loss, rel=1e-4)
        assert [line["test_loss"], line["test_a"]] == pytest.approx([expected["test_loss"], expected["test_a"]],
                                                                   rel=1e-4)
    chosen = strategy(kind, **options)
    run = simulated(chosen, world.size - chosen.servers, Staged(**LASTS[lasts]),
                    machine=Machine(workers_per_node=per_node(world)))
    if kind in ("allreduce", "server") or "sync_steps" in options:
        assert_close(run.parameters, result.parameters)
    else:
        np.testing.assert_array_equal(run.parameters, result.parameters)


FROZEN = {**{name: KINDS[name][:2] for name in KINDS},
          "async": ("server", {"mode": "async"}), "Downpour": ("server", {"mode": "async", "push_every": 2,
                                                                         "fetch_every": 3}),
          "two servers": ("server", {"mode": "ssp", "servers": 2}),
          "elastic": ("elastic", {"mode": "async", "tau": 2, "elastic_momentum": 0.5})}


@pytest.mark.mpi
@pytest.mark.parametrize("name", FROZEN)
def test_what_no_phase_trains_does_not_move_by_a_bit(world, name):
    kind, options = FROZEN[name]
    if world.size <= options.get("servers", kind == "server" or name == "elastic") or (
            world.size == 1 and strategy(kind, **options).needs > 1):
        pytest.skip("needs more ranks")
    model = Staged()
    result = train(model, strategy=kind, **options)
    first, last = views_of(model, first_values(model)[0]), views_of(model, flat(model, result.parameters))
    np.testing.assert_array_equal(last["c"], first["c"])
    assert not np.allclose(last["b"], ROWS.mean(axis=0), rtol=1e-3)  # that was trained
    passed = train(Staged(), strategy=kind, passes=2, **options)
    ended = views_of(model, flat(model, passed.parameters))
    np.testing.assert_array_equal(ended["b"], first["b"])
    if kind not in ("server", "elastic"):  # those may come in another order
        np.testing.assert_array_equal(np.float32(ended["a"] / 2), last["a"])


@pytest.mark.mpi
@pytest.mark.parametrize("lasts", LASTS)
@pytest.mark.parametrize("step", [3, "last", 11])
@pytest.mark.parametrize("name", ["allreduce", "averaging", "gossip", "sequential"])
def test_a_resumed_run_is_the_uninterrupted_one(world, shared, name, step, lasts):
    kind, options, _ = checked(world, name)
    step = LAST[lasts] if step == "last" else step
    whole = train(Staged(**LASTS[lasts]), strategy=kind, **options)
    stop = StopRequest()
    asking = world.rank == world.size - 1 or kind == "sequential"
    first = Asking(stop, step, **LASTS[lasts]) if asking else Staged(**LASTS[lasts])
    stopped = train(first, shared / "run", stop, strategy=kind, **options)
    assert stopped.summary["finished"] is None
    again = Staged(**LASTS[lasts])
    second = train(again, shared / "run", resume=True, strategy=kind, **options)
    assert first.calls + again.calls == 1
    for vector in ("parameters", "averaged", "buffers"):
        np.testing.assert_array_equal(getattr(second, vector), getattr(whole, vector))
    for a, b in zip(second.metrics, whole.metrics, strict=True):
        assert (a["epoch"], a["train_loss"], a["test_loss"]) == (b["epoch"], b["train_loss"], b["test_loss"])


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("lasts", LASTS)
@pytest.mark.parametrize("step", [3, "last"])
@pytest.mark.parametrize("name", ["served", "served by two"])
def test_a_stop_of_servers_in_any_stage_is_gone_on_from(world, shared, name, step, lasts):
    kind, options, _ = checked(world, name)
    step = LAST[lasts] if step == "last" else step
    whole = train(Staged(**LASTS[lasts]), strategy=kind, **options)
    stop = StopRequest()
    first = Asking(stop, step, **LASTS[lasts]) if world.rank == world.size - 1 else Staged(**LASTS[lasts])
    train(first, shared / "run", stop, strategy=kind, **options)
    again = Staged(**LASTS[lasts])
    second = train(again, shared / "run", resume=True, strategy=kind, **options)
    assert first.calls + again.calls == 1
    assert_close(second.parameters, whole.parameters)
    assert [line["epoch"] for line in second.metrics] == [1, 2, 3, 4, 5]
    for column in ("train_loss", "test_loss"):
        assert [m[column] for m in second.metrics] == pytest.approx([m[column] for m in whole.metrics], rel=1e-4)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, {"strategy": "server"},
                                     {"strategy": "server", "mode": "async"}], ids=str)
def test_a_step_is_completed_and_another_number_of_ranks_goes_on(world, shared, options):
    """The stop comes in the first of two turns, on one rank; then one rank goes on alone, then all."""
    class Halting(Pair):
        def sums(self, p, rows, batch):
            stop.requested |= asked and batch.step == 7 and batch.phase == "critic"
            return super().sums(p, rows, batch)

    # In mode async on whichever has that step: a ticket of it may not come to the last rank.
    stop, asked = StopRequest(), "mode" in options or world.rank == world.size - 1
    whole = train(Pair(), **options)
    first = train(Halting(), shared / "run", stop, **options)
    assert first.summary["finished"] is None
    if "mode" not in options:
        assert first.updates == {"critic": 8, "generator": 4} or options  # servers may end one step later
    world.transport.barrier()
    with alone(world):
        if world.rank == 0 and "mode" not in options:  # where it may be within a step
            assert train(Pair(), shared / "run", resume=True, epochs=2).summary["finished"]
    world.transport.barrier()
    third = train(Pair(), shared / "run", resume=True, **options)
    assert len(third.metrics) == EPOCHS
    if "mode" not in options:
        assert_close(third.parameters, whole.parameters)
        assert_close(third.averaged, whole.averaged)
        for name in ("train_loss_critic", "train_loss_generator", "test_loss"):
            assert [m[name] for m in third.metrics] == pytest.approx([m[name] for m in whole.metrics], rel=1e-3)


@pytest.mark.mpi(min_size=2)
def test_servers_go_on_within_an_epoch_that_others_began(world, shared):
    class Halting(Pair):
        def sums(self, p, rows, batch):
            stop.requested |= batch.step == 7
            return super().sums(p, rows, batch)

    stop = StopRequest()
    assert train(Halting(), shared / "run", stop).summary["finished"] is None
    second = train(Pair(), shared / "run", resume=True, strategy="server")
    assert sum(worker["samples"] for worker in second.summary["server"]["workers"]) == len(ROWS) * EPOCHS - 75 - 48
    assert_close(second.parameters, train(Pair()).parameters)


@pytest.mark.mpi
def test_optimizer_state_is_named_by_phase_and_zero_at_a_stage_s_start(world, shared):
    from safetensors.numpy import load_file

    class Moved(Staged):
        """Its stages train alike, by momentum."""

        def __init__(self):
            super().__init__()
            own = {"optimizer": "momentum", "learning_rate": 0.01}
            self.stages = (Stage((Phase("first", ("a",), optimizer=own, average=0.5),), epochs=1),
                           Stage((Phase("first", ("a",), optimizer=own, average=0.5),), begin=self.begin))

    train(Moved(), shared / "run", epochs=1, passes=1)
    train(Moved(), shared / "two", epochs=1)
    if world.rank == 0:
        stage_ended = load_file(newest(shared / "run"))
        assert {name for name in stage_ended if name.startswith("phase.")} == {
            f"phase.first.{state}.a" for state in ("momentum", "average")}
        folders = sorted((shared / "two/checkpoints").glob("step-*"))
        books = [json.loads((folder / "books.json").read_text()) for folder in folders]
        assert (books[0]["stage"], books[0]["begun"], books[0]["step"]) == (1, False, 5)
        assert not load_file(folders[0] / "state.safetensors")["phase.first.momentum.a"].any()
        assert books[0]["updates"][0] == [[0]]


def newest(run):
    folder = run / "checkpoints"
    return folder / (folder / "latest").read_text().strip() / "state.safetensors"


@pytest.mark.mpi
def test_shares_are_of_each_phase(world):
    """No rank has all of one network."""
    result = train(Pair(), shard_optimizer=True)
    sizes = world.transport.gather(np.array([result.state["critic.momentum"].size,
                                             result.state["generator.average"].size], dtype=np.float64))
    assert np.sum(sizes, axis=0).tolist() == [64, 64] and (world.size == 1 or np.max(sizes) <= 32)
    whole = result.whole()
    plain = train(Pair())
    for name, vector in plain.state.items():
        assert_close(whole.state[name], vector)


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"strategy": "server"}, {"strategy": "elastic"}], ids=str)
def test_patience_in_the_first_stage_ends_that_stage_only(world, shared, options):
    if world.size == 1 and options:
        pytest.skip("needs more ranks")

    class Stuck(Staged):
        """What stage 1 trains does not help."""

        def scores(self, p, rows):
            return {**super().scores(p, rows), "loss": float(len(rows))} if not self.calls else super().scores(p, rows)

    model = Stuck(epochs=6)
    result = train(model, shared / "run", patience=2, **options)
    assert [line["epoch"] for line in result.metrics] == [1, 2, 3, 7, 8, 9] and result.summary["finished"]
    assert model.calls == 1 and result.summary["stopped_early"] is False
    trained = result.summary["samples_per_second"] * sum(result.summary["time"].values())
    assert trained == pytest.approx(6 * len(ROWS))


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, {"strategy": "server"}], ids=str)
@pytest.mark.parametrize("lasts", LASTS)
def test_what_a_result_left_goes_on_pass_by_pass(world, options, lasts):
    if world.size == 1 and options.get("strategy"):
        pytest.skip("needs more ranks")
    whole = train(Staged(**LASTS[lasts]), **options)
    model, result = Staged(**LASTS[lasts]), None
    for passes in range(1, 3 + EPOCHS):
        result = train(model, start=result, passes=passes, **options)
    assert model.calls == 1 and len(result.metrics) == len(whole.metrics)
    assert_close(result.parameters, whole.parameters)
    assert [m["test_loss"] for m in result.metrics] == pytest.approx([m["test_loss"] for m in whole.metrics], rel=1e-4)


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"strategy": "server"}, {"strategy": "server", "mode": "ssp", "bound": 0},
                                     {"strategy": "averaging", "period": 2}, {"strategy": "gossip"}], ids=str)
def test_steps_without_a_turn_hold_up_nobody(world, options):
    class Seldom(Staged):
        def __init__(self):
            super().__init__()
            self.stages = (Stage((Phase("first", ("a",), every=2),), steps=7), Stage((Phase("second", "b", every=3),)))

    if world.size == 1 and options:
        pytest.skip("needs more ranks")
    result = train(Seldom(), **options)
    assert len(result.metrics) == 2 + EPOCHS
    if options.get("mode") is None and options.get("strategy") in (None, "server"):
        assert_close(flat(Seldom(), result.parameters), follow(Seldom(), Together(1)).parameters)


def test_the_model_s_own_buffers_are_there_when_a_stage_begins():
    result = train(Staged())
    np.testing.assert_allclose(result.buffers[:2], [1, ROWS.mean(axis=0)[0]], rtol=1e-5)
