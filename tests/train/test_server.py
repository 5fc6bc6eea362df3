"""Training with servers: modes, books, stops, resumes, and what goes wrong."""

import json
import re
import time

import numpy as np
import pytest
from small_runs import ROWS, TEST, Buffered, StopAfter, entered, same_everywhere, train

import pyddl
from pyddl.comm import use
from pyddl.comm.operations import Arrived, BeginStep, Compute, NextEpoch, StepDone, Update
from pyddl.comm.simulated_servers import Published
from pyddl.data.batch import Batch
from pyddl.data.sampler import Sampler
from pyddl.errors import CommError, NotFiniteError, ParameterError
from pyddl.estimators import Autoencoder as Estimator
from pyddl.models import Autoencoder
from pyddl.optim import AdaGrad, Constant, Momentum, Nesterov, optimizer, schedule
from pyddl.optim.given import optimizer_of
from pyddl.strategies import Server, strategy
from pyddl.train import StopRequest
from pyddl.train import server as trained_server
from pyddl.train.progress import Progress
from pyddl.train.report import table
from pyddl.train.worker import Worker

MODES = {
    "sync": {"mode": "sync"},
    "backup": {"mode": "sync", "backup": 1},
    "ssp": {"mode": "ssp", "bound": 1},
    "async": {"mode": "async"},
    "Downpour": {"mode": "async", "push_every": 2, "fetch_every": 3, "server_optimizer": "adagrad", "solo_steps": 7},
    "two servers": {"mode": "async", "servers": 2},
    "two servers in step": {"mode": "sync", "servers": 2},
    "elastic": {"strategy": "elastic", "mode": "async", "tau": 2},
}


def options_of(world, name):
    """The options of a mode; skipped on too few ranks."""
    options = {"strategy": "server", **MODES[name]}
    if world.size - options.get("servers", 1) - options.get("backup", 0) < 1:
        pytest.skip("needs more ranks")
    return options


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", MODES)
def test_all_ranks_end_with_the_model_that_is_served(world, name):
    result = train(**options_of(world, name))
    assert same_everywhere(world, result.parameters)
    losses = [line["test_loss"] for line in result.metrics]
    assert len(losses) == 4 and losses[-1] < losses[0]
    model = Autoencoder(20, hidden=(8, 3))
    assert losses[-1] == pytest.approx(served_loss(model, result), rel=1e-5)


def initial(model):
    """What `train` begins with."""
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 4)
    return parameters, buffers


def served_loss(model, result):
    return model.evaluate(result.parameters, result.buffers, Batch(TEST))["loss"] / len(TEST)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", MODES)
def test_the_books_have_every_row(world, name):
    options = options_of(world, name)
    result = train(**options)
    books = result.summary["server"]
    samples = sum(worker["samples"] for worker in books["workers"]) + books["dropped_samples"]
    pushes = sum(worker["pushes"] for worker in books["workers"])
    assert pushes == books["pushes"] == sum(books["staleness"].values())
    if name == "elastic":  # what came after the last meeting is not pushed
        assert 3 * len(ROWS) < samples <= 4 * len(ROWS)
    else:
        assert samples == 4 * len(ROWS)
    trained = sum(line["samples_per_second"] * line["seconds"] for line in result.metrics)
    assert trained == pytest.approx(4 * len(ROWS) - books["dropped_samples"])
    assert (books["dropped"] > 0) <= (name == "backup")
    losses = [line["train_loss"] for line in result.metrics]
    if name in ("sync", "two servers in step"):
        assert books["staleness"] == {"0": pushes}
        assert losses == sorted(losses, reverse=True)
    if options.get("servers", 1) > 1:
        assert len(books["versions"]) == 2 and all(len(each) == 2 for each in books["last_fetched"])
    model = Autoencoder(20, hidden=(8, 3))
    untrained = model.evaluate(*initial(model), Batch(ROWS))["loss"] / len(ROWS)
    assert losses[-1] < untrained and all(0.9 * untrained < loss < 1.05 * untrained for loss in losses)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("options", [{}, {"optimizer": "nesterov", "momentum_schedule": "sutskever", "clip_norm": 1.0,
                                          "learning_rate": 1e-3, "schedule": "cosine"}], ids=["adam", "schedules"])
def test_in_step_it_is_allreduce_on_as_many_workers(world, servers, options):
    if world.size <= servers or (servers > 1 and "clip_norm" in options):
        pytest.skip("needs more ranks, or one server")
    served = train(strategy="server", mode="sync", servers=servers, **options)
    alone = train_alone(world, **options)
    np.testing.assert_allclose(served.parameters, alone.parameters, rtol=2e-3, atol=2e-5)
    assert [line["train_loss"] for line in served.metrics] == pytest.approx(
        [line["train_loss"] for line in alone.metrics], rel=1e-5)


def train_alone(world, **options):
    """Each rank for itself, as a world of one."""
    with use(world.mpi.Split(world.rank)):
        return train(strategy="allreduce", **options)


@pytest.mark.mpi(min_size=2)
def test_one_worker_is_never_stale(world):
    with use(world.mpi.Split(world.rank // 2)) as pair:
        if pair.size < 2:
            return
        served = train(strategy="server", mode="async")
        assert served.summary["server"]["staleness"] == {"0": 20}
        if pair.rank == 0:
            assert served.summary["server"]["versions"] == 20


class Slow(Autoencoder):
    """Takes 50 ms for a gradient on rank 1, and hardly any time elsewhere."""

    def gradient(self, *given, **named):
        time.sleep(0.05 * (pyddl.world().rank == 1))
        return super().gradient(*given, **named)


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("bound", [0, 2])
def test_nobody_is_further_ahead_than_the_bound(world, bound):
    """Without it the others would make all other pushes of the epoch while the first worker is at its first."""
    model = Slow(20, hidden=(8, 3))
    books = train(model=model, strategy="server", mode="ssp", bound=bound, epochs=2, batch_size=12).summary["server"]
    workers = world.size - 1
    # a fetch has the pushes of all others but the last bound + 1 (those of this clock), and may miss as many ahead
    assert max(map(int, books["staleness"])) <= (workers - 1) * (2 * bound + 1)
    pushes = [worker["pushes"] for worker in books["workers"]]
    assert sum(pushes) == 2 * 17 * workers and max(pushes) - min(pushes) <= 2 * (bound + 1)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", MODES)
def test_a_stop_within_an_epoch_loses_no_row(world, shared, name):
    options = options_of(world, name)
    stop = StopRequest()
    in_step = options["mode"] == "sync" and name != "backup"  # there the last rank has rows of every step
    asked = StopAfter(stop, 6) if world.rank == world.size - 1 or not in_step else None
    first = train(shared / "run", asked, stop, **options)
    assert first.summary["finished"] is None and 1 <= len(first.metrics) < 4
    second = train(shared / "run", resume=True, **options)
    assert second.summary["finished"] and len(second.metrics) == 4
    if name not in ("elastic", "backup"):
        assert trained(first) + trained(second) == 4 * len(ROWS)
    if name == "sync":
        whole = train(**options)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=2e-5)
        assert [m["train_loss"] for m in second.metrics] == pytest.approx([m["train_loss"] for m in whole.metrics])


def trained(result):
    return sum(worker["samples"] for worker in result.summary["server"]["workers"])


@pytest.mark.mpi(min_size=3)
def test_it_resumes_on_another_number_of_ranks_and_servers(world, shared):
    train(shared / "run", strategy="server", mode="sync", epochs=2)
    halves = world.mpi.Split(world.rank == 0)
    with use(halves) as rest:
        if world.rank > 0 and rest.size > 1:
            second = train(shared / "run", resume=True, strategy="server", mode="sync", servers=rest.size - 1)
            whole = train(strategy="server", mode="sync")
            np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=2e-5)
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_another_strategy_goes_on_with_the_servers_state(world, shared):
    train(shared / "run", strategy="server", mode="sync", epochs=2)
    second = train(shared / "run", resume=True, strategy="allreduce")
    np.testing.assert_allclose(second.parameters, train(strategy="allreduce").parameters, rtol=1e-3, atol=2e-5)


@pytest.mark.mpi(min_size=2)
def test_what_servers_have_trained_goes_on_as_well_in_this_process(world):
    first = train(strategy="server", mode="sync", epochs=2)
    second = train(start=first, strategy="allreduce")
    assert same_everywhere(world, second.parameters)
    np.testing.assert_allclose(second.parameters, train(strategy="allreduce").parameters, rtol=2e-3, atol=2e-5)


def test_a_worker_counts_how_far_apart_the_versions_of_servers_are():
    worker = Worker(Autoencoder(20, hidden=(8, 3)), Sampler(100, 10))
    for version in ((3, 5, 4), (6, 6, 6), (7, 9, 8), 4):
        worker.fetched(version)
    assert worker.spreads == {0: 1, 2: 2} and worker.last_fetched == (7, 9, 8)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_buffers_are_merged_by_their_rules(world, mode):
    model = Buffered()
    result = train(model=model, optimizer="sgd", epochs=3, strategy="server", mode=mode)
    views = model.buffers.views(result.buffers)
    assert views["seen"][0] == 1000 + 3 * len(ROWS)
    assert views["top"][0] == len(ROWS) - 1
    assert same_everywhere(world, result.buffers)


def test_the_server_refuses_what_is_not_finite():
    model = Autoencoder(20, hidden=(8, 3))
    server = entered(trained_server.Server(model, Sampler(100, 10), number=0, count=1, workers=2), optimizer("adam"))
    vector = np.zeros(server.layout.size, dtype=np.float32)
    server.received(Arrived(0, 5, 0, vector, "all", 5))
    vector[5] = np.inf
    with pytest.raises(NotFiniteError, match=r"step 0, rank 2: it pushed a vector whose first bad value is inf, in "):
        server.received(Arrived(1, 5, 0, vector, "all", 5))


def test_an_update_is_scaled_by_its_rate_and_scheduled_by_samples():
    """Half a step's samples in each push: the learning rate falls to a tenth with every second one."""
    model = Autoencoder(20, hidden=(8, 3))
    rule = optimizer("sgd", learning_rate=schedule("step", 0.5, step_every=1, step_factor=0.1))
    server = entered(trained_server.Server(model, Sampler(100, 10), number=0, count=1, workers=2), rule)
    vector = np.ones(server.layout.size, dtype=np.float32)
    port = Published(server.parameters)
    server.serve(port)
    before = port.current().copy()
    for clock, (staleness, rate) in enumerate([(1, 0.5), (2, 0.5), (1, 0.05), (4, 0.05), (1, 0.005)]):
        server.received(Arrived(clock % 2, 5, server.version, vector, "all", 5))
        server.update(Update(1 / 5, vector=vector, phase="all", rate=1 / staleness))
        server.published(port.publish(0))
        np.testing.assert_allclose(before - port.current(), rate / 5 / staleness, rtol=1e-5)
        before = port.current().copy()


def test_between_fetches_a_worker_begins_each_epoch_without_optimizer_state():
    worker = entered(Worker(Autoencoder(20, hidden=(8, 3)), Sampler(100, 10)), optimizer("adam"))
    moved = []
    for _ in range(2):
        worker.restart()
        worker.whole[:] = 0
        worker.whole_gradients[:] = 3
        for _ in worker.turns():
            worker.update(Update(1.0))
        moved.append(worker.parameters.copy())
    assert worker.phases[0].updates == 1 and moved[0].any() and np.array_equal(*moved)


def test_what_is_not_finite_ends_all_ranks_with_the_workers_name(mpirun):
    done = mpirun(3, """
        import numpy as np
        from pyddl.models import Autoencoder
        from pyddl.train import Trainer

        class Broken(Autoencoder):
            def gradient(self, parameters, gradients, buffers, batch):
                loss = super().gradient(parameters, gradients, buffers, batch)
                if batch.step == 3:
                    gradients[5] = np.nan
                return loss

        rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
        Trainer(Broken(20, hidden=(8, 3)), strategy="server", mode="async", batch_size=50).fit(rows)
    """)
    assert done.code not in (0, None), done
    assert "it pushed a vector whose first bad value is nan, in encoder.0.weight: lower the learning" in done.err
    assert re.search(r"NotFiniteError: step [1-4], rank [12]: ", done.err), done.err


@pytest.mark.parametrize(("strategy", "rank"), [
    ({"strategy": "server", "mode": "async"}, 2), ({"strategy": "sequential", "replicas": 5}, 1)], ids=str)
def test_a_loss_that_is_not_finite_names_the_rank_and_not_the_worker(mpirun, strategy, rank):
    """Rank 2 is worker 1 there; replicas 1 and 4 take their turns on rank 1."""
    done = mpirun(3, f"""
        import pyddl, numpy as np
        from pyddl.models import Autoencoder
        from pyddl.train import Trainer

        class Broken(Autoencoder):
            calls = 0
            def gradient(self, parameters, gradients, buffers, batch):
                Broken.calls += 1
                loss = super().gradient(parameters, gradients, buffers, batch)
                return np.nan if pyddl.world().rank == {rank} and Broken.calls == 4 else loss

        rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
        Trainer(Broken(20, hidden=(8, 3)), epochs=20, batch_size=50, **{strategy}).fit(rows)
    """)
    assert done.code not in (0, None), done
    assert re.search(rf"NotFiniteError: step \d+, rank {rank}: the loss is nan", done.err), done.err


class Silent(Server):
    """Its worker 0 computes, and never pushes."""

    def worker(self, me):
        if me.number > 0:
            yield from super().worker(me)
            return
        while (yield NextEpoch()) is not None:
            while (yield BeginStep()):
                for _ in me.turns():
                    yield Compute()
                yield StepDone()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("mode", ["ssp", "async"])
def test_a_worker_that_never_pushes_holds_up_nobody(world, mode):
    result = train(strategy=Silent(mode=mode, bound=1 if mode == "ssp" else None))
    books = result.summary["server"]
    assert len(result.metrics) == 4 and books["workers"][0] == {"pushes": 0, "samples": 0}


@pytest.mark.mpi(min_size=2)
def test_in_step_a_worker_that_never_pushes_ends_the_run(world):
    with pytest.raises(CommError, match="an epoch has ended after row 0 of 203: its next step lacks the push of a"):
        train(strategy=Silent(mode="sync"))


@pytest.mark.mpi(min_size=2)
def test_the_run_directory_tells_who_served(world, shared):
    train(shared / "run", strategy="server", mode="async")
    summary = json.loads((shared / "run/summary.json").read_text())
    assert summary["server"]["versions"] == summary["server"]["pushes"] > 0
    assert len(summary["server"]["workers"]) == world.size - 1
    assert summary["samples_per_second"] > 0


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("options", "said"), [
    ({"mode": "sync"}, "server in mode sync on {} ranks, batches of 50, adam\n"),
    ({"mode": "async", "server_optimizer": "adagrad"}, "async on {} ranks, batches of 50, adagrad on the server\n"),
    ({"mode": "ssp", "server_optimizer": "sgd", "fetch_every": 2}, "sgd on the server, adam between fetches\n"),
    ({"mode": "async", "optimizer": "momentum", "momentum": 0.95, "fetch_every": 2, "server_optimizer": "adagrad"},
     "adagrad on the server, momentum between fetches\n"),
    ({"strategy": "elastic", "mode": "async"}, "elastic in mode async on {} ranks, batches of 50, adam\n"),
], ids=str)
def test_the_first_lines_tell_who_does_what(world, options, said):
    titles = []

    class Titles(Progress):
        def begin(self, title, *rest):
            titles.append(title)

    train(**{"strategy": "server", "epochs": 1, "progress": Titles(), **options})
    assert world.rank or (said.format(world.size) in titles[0] and "rank 0 serves, rank" in titles[0]), titles


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("name", ["backup", "async"])
def test_the_last_lines_tell_of_pushes_and_of_what_was_dropped(world, name):
    summary = train(**options_of(world, name)).summary
    books, text = summary["server"], table(summary)
    ages = {int(age): times for age, times in books["staleness"].items()}
    mean = sum(age * times for age, times in ages.items()) / books["pushes"]
    assert re.search(rf"^pushes +{books['pushes']}, {mean:.2f} updates old in the mean, {max(ages)} at most$", text,
                     re.MULTILINE), text
    dropped = f"{books['dropped']:,} pushes of {books['dropped_samples']:,} rows"
    assert (dropped in text) == (books["dropped"] > 0), text


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("options", "message"), [
    ({"servers": 9}, r"servers is 9 on \d ranks, which leaves no worker; expected at most"),
    ({"backup": 4}, r"backup is 4 with \d workers?; expected fewer backup workers than workers"),
    ({"reproducible": True}, "reproducible has no meaning with strategy server"),
    ({"server_optimizer": "adagrad", "server_momentum": 0.9}, "'adagrad' has no option 'momentum'"),
])
def test_what_these_ranks_cannot_do_is_named(world, options, message):
    with pytest.raises(ParameterError, match=message):
        train(strategy="server", **options)


@pytest.mark.mpi(min_size=3)
def test_norms_of_shares_are_not_clipped(world):
    with pytest.raises(ParameterError, match="of which each of 2 servers has a share only"):
        train(strategy="server", servers=2, clip_norm=1.0)


@pytest.mark.parametrize(("options", "message"), [
    ({}, "needs 2 ranks, a server and a worker, and there is 1: choose strategy local"),
    ({"mode": "ssp", "bound": -1}, "bound is -1; expected a whole number at least 0"),
    ({"mode": "sync", "bound": 2}, "bound belongs to mode ssp; the mode here is sync"),
    ({"mode": "async", "backup": 1}, "backup belongs to mode sync; the mode here is async"),
    ({"mode": "sync", "push_every": 2}, "push_every belongs to mode ssp and async"),
    ({"mode": "sync", "fetch_every": 2}, "fetch_every belongs to mode ssp and async"),
    ({"mode": "ssp", "solo_steps": 2}, "solo_steps belongs to mode async"),
    ({"mode": "ssp", "bound": 1, "push_every": 2, "fetch_every": 4}, "fetch_every is 4, .*expected at most 3"),
    ({"backup": 1, "servers": 2}, "backup is 1 with 2 servers"),
    ({"server_optimizer": "adagard"}, "did you mean 'adagrad'"),
    ({"mode": "asinc"}, "did you mean 'async'"),
    ({"staleness": "none"}, "staleness is 'none'"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        train(strategy="server", **options)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{"mode": "sync"}, {"mode": "async", "fetch_every": 2},
                                     {"strategy": "elastic", "mode": "async", "tau": 2}], ids=str)
def test_an_estimator_goes_on_where_it_ended(world, options):
    given = {"hidden": (8, 3), "strategy": "server", "batch_size": 50, "random_state": 4, **options}
    given |= {"learning_rate": 0.01}
    whole = Estimator(epochs=2, **given).fit(ROWS)
    passes = Estimator(epochs=1, **given).partial_fit(ROWS).partial_fit(ROWS)
    assert len(passes.metrics_) == 2 and passes.loss_curve_[1] < passes.loss_curve_[0]
    assert same_everywhere(world, passes.result_.parameters)
    if options["mode"] == "sync":
        np.testing.assert_allclose(passes.result_.parameters, whole.result_.parameters, rtol=1e-3, atol=2e-5)
    assert np.isfinite(passes.transform(ROWS)).all()


@pytest.mark.parametrize(("own", "rule"), [
    ({"server_rate": 0.2}, Momentum(0.2, momentum=0.95, weight_decay=0.01)),
    ({"server_momentum": 0.5}, Momentum(0.1, momentum=0.5, weight_decay=0.01)),
    ({"server_optimizer": "adagrad"}, AdaGrad(0.1, weight_decay=0.01)),
    ({"server_optimizer": "nesterov", "server_rate": 0.2, "server_momentum": 0.5},
     Nesterov(0.2, momentum=0.5, weight_decay=0.01)),
], ids=str)
def test_the_servers_rule_takes_from_the_workers_what_it_has(own, rule):
    given = {"learning_rate": 0.1, "momentum": 0.95, "weight_decay": 0.01}
    chosen = strategy("server", mode="async", **own)
    made = optimizer_of("momentum", given, 100, own=chosen.server_rule)
    expected = {**rule.options(), "learning_rate": Constant(rule.learning_rate).options()}
    assert (type(made), made.options()) == (type(rule), expected)
