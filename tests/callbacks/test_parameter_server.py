"""Training by callbacks: the same program on one process and on several ranks."""

import re
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from support import assert_on_all_ranks

import pyddl
from pyddl.callbacks.served import Replica, Served
from pyddl.callbacks.units import Unit
from pyddl.errors import DataError, NotFiniteError, ParameterError, ShapeError

ITEMS = 103
ONE = np.ones(1)


class Seen:
    """A model of no arrays: what was applied to it."""

    def __init__(self):
        self.items = []

    def append(self, items):
        self.items += items


class Counted:
    """A model that counts how often it was pickled."""

    pickled = 0

    def __getstate__(self):
        Counted.pickled += 1
        return {"x": 1}


def all_of(model, items):
    return {"items": [int(item) for item in items]}


def append(model, update):
    model.append(update["items"])


def line():
    """A linear model, its rows, and what they should give."""
    rows = np.random.default_rng(3).standard_normal((ITEMS, 5))
    return {"w": np.zeros(5), "b": {"bias": np.zeros(1)}}, rows, rows @ np.arange(5.0) + 2


def line_gradient(rows, targets):
    def gradient(model, items):
        error = rows[items] @ model["w"] + model["b"]["bias"] - targets[items]
        return {"w": error @ rows[items] / len(items), "b": {"bias": np.atleast_1d(error.mean())}}
    return gradient


def line_descent(model, update):
    model["w"] -= 0.1 * update["w"]
    model["b"]["bias"] -= 0.1 * update["b"]["bias"]


@pytest.mark.mpi
@pytest.mark.parametrize("named", [False, True], ids=["whole object", "named arrays"])
@pytest.mark.parametrize("fetch_every", [1, 3])
def test_a_linear_model_is_learnt(world, named, fetch_every):
    """Twice, so that the last updates are not as old as the model: a worker may be held up for all of one training."""
    model, rows, targets = line()
    with pyddl.ParameterServer(model, parameters=(lambda model: model) if named else None) as server:
        first, report = (server.train(np.arange(ITEMS), line_gradient(rows, targets), line_descent, batch_size=20,
                                      epochs=25, shuffle=True, fetch_every=fetch_every) for _ in range(2))
    learnt = server.model
    close = np.allclose(learnt["w"], np.arange(5), atol=0.02) and np.allclose(learnt["b"]["bias"], 2, atol=0.02)
    assert_on_all_ranks(world, close, learnt)
    assert_on_all_ranks(world, server.version == first.updates + report.updates, report)
    assert_on_all_ranks(world, report.updates == sum(report.by_worker.values()), report)
    assert_on_all_ranks(world, report.items == 25 * ITEMS and sum(report.staleness.values()) == report.updates, report)
    assert_on_all_ranks(world, len(report.by_worker) == max(1, world.size - 1) and not report.lost, report)
    assert_on_all_ranks(world, 0 < report.descent_seconds < report.seconds and report.items_per_second > 0, report)
    assert_on_all_ranks(world, (learnt is model) == (named or world.rank == 0))


@pytest.mark.mpi
def test_the_last_version_is_the_same_on_every_rank(world):
    model, rows, targets = line()
    with pyddl.ParameterServer(model) as server:
        server.train(np.arange(ITEMS), line_gradient(rows, targets), line_descent, batch_size=7)
    bits = world.transport.gather_objects(server.model["w"].tobytes())
    assert_on_all_ranks(world, len(set(bits)) == 1)


@pytest.mark.mpi
@pytest.mark.parametrize("options", [
    {}, {"partitions": 1}, {"partitions": 8, "epochs": 2}, {"partitions": 2 * ITEMS}, {"batch_size": 10, "epochs": 3},
    {"batch_size": 1}, {"batch_size": 10**6}, {"batch_size": 9, "shuffle": True, "seed": 5},
    {"batch_size": 9, "fetch_every": 4},
], ids=str)
@pytest.mark.parametrize("make", [
    range, lambda n: list(range(n)), np.arange, lambda n: iter(range(n)), lambda n: {*range(n)},
    lambda n: np.eye(n) * np.arange(n),
    lambda n: pyddl.data.load(np.arange(2 * n, dtype=np.float32).reshape(n, 2)),
    lambda n: pandas.Series(range(n), index=np.arange(n) + 7), lambda n: pandas.DataFrame(np.eye(n) * np.arange(n)),
], ids=["range", "list", "array", "iterator", "set", "matrix", "source", "series", "frame"])
def test_every_item_is_done_once_an_epoch(world, make, options):
    data = make(ITEMS)
    epochs = options.get("epochs", 1)
    drawn = not hasattr(data, "__getitem__") and not isinstance(data, pyddl.data.Source)
    if drawn and ("batch_size" not in options or options.get("shuffle") or (epochs > 1 and iter(data) is data)):
        pytest.skip("refused: see below")
    seen = Seen()

    def gradient(model, items):
        if isinstance(data, pyddl.data.Source):
            return {"items": [int(row[0]) // 2 for row in items]}
        return {"items": [int(np.max(item)) for item in items]}

    with pyddl.ParameterServer(seen) as server:
        report = server.train(data, gradient, append, **options)
    counts = np.bincount(server.model.items, minlength=ITEMS)
    assert_on_all_ranks(world, (counts == epochs).all() and len(counts) == ITEMS, counts)
    assert_on_all_ranks(world, report.items == epochs * ITEMS, report)


@pytest.mark.mpi
def test_batch_size_is_that_of_all_workers_and_partitions_default_to_one_each(world):
    workers = max(1, world.size - 1)
    sizes = []

    def gradient(model, items):
        return np.array([len(items)])

    def descent(model, update):
        sizes.append(int(update[0]))

    with pyddl.ParameterServer(None) as server:
        server.train(range(12), gradient, descent, batch_size=6)
        server.train(range(12), gradient, descent)
    expected = [6 // workers] * (2 * workers) + [12 // workers] * workers
    assert_on_all_ranks(world, world.rank > 0 or sizes == expected, sizes)


@pytest.mark.mpi
def test_shuffled_epochs_differ_and_follow_the_seed(world):
    def orders(seed):
        seen = Seen()
        with pyddl.ParameterServer(seen) as server:
            for _ in range(2):
                server.train(range(ITEMS), all_of, append, partitions=1, shuffle=True, seed=seed)
        return server.model.items[:ITEMS], server.model.items[ITEMS:]

    first, second = orders(0)
    assert_on_all_ranks(world, sorted(first) == sorted(second) == list(range(ITEMS)) and first != second)
    assert_on_all_ranks(world, orders(0) == (first, second) and orders(1)[0] != first)


@pytest.mark.mpi
@pytest.mark.parametrize("fetch_every", [1, 2])
def test_a_worker_s_fetch_includes_its_own_updates(world, fetch_every):
    """The model counts each worker's updates; a worker knows how many it has pushed."""
    pushed = 0
    wrong = []

    def gradient(model, items):
        nonlocal pushed
        if not fetch_every - 1 >= pushed - model["counts"][world.rank] >= 0:
            wrong.append((pushed, model["counts"].tolist()))
        if model["counts"].sum() != model["version"][0]:
            wrong.append("torn")
        pushed += 1
        return {"counts": (np.array([world.rank]), np.ones(1))}

    def descent(model, update):
        rows, values = update["counts"]
        model["counts"][rows] += values
        model["version"] += 1

    model = {"counts": np.zeros(world.size), "version": np.zeros(1)}
    with pyddl.ParameterServer(model, parameters=lambda model: model) as server:
        server.train(range(60), gradient, descent, batch_size=1, fetch_every=fetch_every)
    assert_on_all_ranks(world, not wrong, wrong[:3])
    assert_on_all_ranks(world, model["counts"].sum() == 60)


@pytest.mark.mpi
@pytest.mark.parametrize("named", [False, True], ids=["whole object", "named arrays"])
def test_a_fetched_model_is_one_version(world, named):
    """Updates go on while the model is being sent: it is large, and each version is filled with its number."""
    torn = []

    def gradient(model, items):
        if not (model["x"] == model["x"][0]).all():
            torn.append(np.unique(model["x"]))
        return {"one": np.ones(1)}

    def descent(model, update):
        model["x"] += 1

    model = {"x": np.zeros(500_000)}
    with pyddl.ParameterServer(model, parameters=(lambda model: {**model, "one": ONE}) if named else None) as server:
        server.train(range(120), gradient, descent, batch_size=1)
    assert_on_all_ranks(world, not torn, f"torn {len(torn)} times, first {torn[:1]}")
    assert_on_all_ranks(world, (server.model["x"] == 120).all())


@pytest.mark.parametrize("parameters", [None, lambda model: model], ids=["whole object", "named arrays"])
def test_what_is_being_sent_does_not_change_with_the_model(parameters):
    model = {"x": np.zeros(10_000)}
    served = Served(model, parameters, 0, [1])
    on_the_way = served.packed()

    def descent(model, update):
        model["x"] += update

    served.apply(descent, 1, Unit(0, 0, 1), 0, np.ones(10_000))
    sent, later = on_the_way.unpack(), served.packed().unpack()
    assert sent.version == 0 and not sent.content["x"].any()
    assert later.version == 1 and later.content["x"].all()


def test_staleness_is_counted_from_the_version_that_was_fetched():
    model, rows, targets = line()
    with pyddl.ParameterServer(model) as server:
        report = server.train(np.arange(ITEMS), line_gradient(rows, targets), line_descent, batch_size=10,
                              fetch_every=3)
    assert report.staleness == {0: 4, 1: 4, 2: 3}  # 11 minibatches, fetched before 0, 3, 6 and 9


@pytest.mark.mpi
def test_the_model_is_sent_only_where_it_has_changed(world, monkeypatch):
    moves = []
    move = Replica.move
    monkeypatch.setattr(Replica, "move", lambda replica, sent: (moves.append(sent.version), move(replica, sent)))
    Counted.pickled = 0
    with pyddl.ParameterServer(Counted()) as server:
        server.train(range(50), lambda model, items: {}, lambda model, update: 1 / 0, batch_size=1)
    assert_on_all_ranks(world, Counted.pickled == (world.rank == 0), f"pickled {Counted.pickled} times")
    assert_on_all_ranks(world, moves == ([0] if world.rank or world.size == 1 else []), moves)


@pytest.mark.mpi
@pytest.mark.parametrize("empty", [
    {}, {"w": {}}, {"w": (np.zeros(0, int), np.zeros((0, 2)))}, {"w": np.zeros(0)}, np.zeros((0, 3)), [],
    (np.zeros(0, int), np.zeros(0)),
], ids=str)
def test_an_empty_update_is_legal_and_changes_nothing(world, empty):
    with pyddl.ParameterServer(None) as server:
        report = server.train(range(10), lambda model, items: empty, lambda model, update: 1 / 0)
    assert_on_all_ranks(world, report.updates == server.version == 0 and report.items == 10, report)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [1, 3, 1000, 300_000])
@pytest.mark.parametrize("named", [False, True], ids=["whole object", "named arrays"])
def test_an_array_alone_is_a_model_and_an_update(world, n, named):
    model = np.zeros(n, np.float32)

    def gradient(model, items):
        return np.full_like(model, len(items))

    def descent(model, update):
        model += update

    with pyddl.ParameterServer(model, parameters=(lambda model: model) if named else None) as server:
        server.train(range(10), gradient, descent, batch_size=2)
    assert_on_all_ranks(world, (server.model == 10).all(), server.model)


@pytest.mark.mpi
def test_a_gradient_may_move_its_replica_until_the_next_fetch(world):
    """The difference that some steps on the replica make is the update: on one process, too, it is applied once."""
    def gradient(model, items):
        before = model["x"].copy()
        model["x"] += len(items)
        return {"x": model["x"] - before}

    def descent(model, update):
        model["x"] += update["x"]

    model = {"x": np.zeros(2)}
    with pyddl.ParameterServer(model, parameters=lambda model: model) as server:
        server.train(range(30), gradient, descent, batch_size=4)
    assert_on_all_ranks(world, (model["x"] == 30).all(), model)


@pytest.mark.mpi
def test_a_gradient_may_use_its_memory_again(world):
    out = np.zeros(50_000)

    def gradient(model, items):
        out[:] = sum(items)
        return out

    def descent(model, update):
        model += update

    model = np.zeros(out.size)
    with pyddl.ParameterServer(model) as server:
        server.train(range(40), gradient, descent, batch_size=2, fetch_every=10)
    assert_on_all_ranks(world, (server.model == sum(range(40))).all(), server.model)


@pytest.mark.mpi
def test_a_waiting_server_burns_no_core(world):
    begin, mine = time.monotonic(), time.process_time()
    with pyddl.ParameterServer(None) as server:
        server.train(range(max(1, world.size - 1)), lambda model, items: time.sleep(1) or {}, append)
    taken, used = time.monotonic() - begin, time.process_time() - mine
    assert_on_all_ranks(world, used < 0.5 * taken, f"{used:.2f} s of processor time in {taken:.2f} s of waiting")


@pytest.mark.mpi
def test_it_trains_within_a_part_of_the_world(world):
    if world.mpi is None:
        pytest.skip("one rank has no communicator")
    half = world.mpi.Split(world.rank % 2)
    with pyddl.use(half), pyddl.ParameterServer(Seen()) as server:
        server.train(range(ITEMS), all_of, append, batch_size=10)
    half.Free()
    assert_on_all_ranks(world, sorted(server.model.items) == list(range(ITEMS)))


# ---- bad input: one process shows it ---------------------------------------------------------------------------------

PARAMETERS = {"wv": np.zeros((7, 2)), "deep": {"bias": np.zeros(3)}}


def train(update, data=range(4), parameters=lambda model: model, **options):
    with pyddl.ParameterServer(PARAMETERS, parameters=parameters) as server:
        server.train(data, lambda model, items: update, lambda model, update: None, **options)


@pytest.mark.parametrize(("update", "error", "message"), [
    (None, ParameterError, "rank 0, items 0 to 3 of epoch 1: update is None; expected what gradient computed"),
    ({"wvs": np.zeros((7, 2))}, ParameterError,
     r"rank 0.*update\['wvs'\] has no place in the model.*'wv', 'deep.bias'; did you mean 'wv'"),
    ({"wv": np.zeros((7, 3))}, ShapeError,
     r"rank 0.*update\['wv'\] is a float64 array of shape \(7, 3\); expected the shape \(7, 2\)"),
    ({"deep": np.zeros(3)}, ParameterError, r"update\['deep'\] has no place"),
    (np.zeros(3), ParameterError, "update has no place in the model"),
    ({"wv": 3}, ShapeError, "of type int"),
    ({"wv": (np.array([1, 7]), np.zeros((2, 2)))}, ParameterError, "name row 7; expected 0 to 6"),
    ({"wv": (np.array([-1]), np.zeros((1, 2)))}, ParameterError, "name row -1"),
    ({"wv": (np.array([1.0]), np.zeros((1, 2)))}, ParameterError, "float64 array.*expected one dimension of integers"),
    ({"wv": (np.array([1, 2]), np.zeros((1, 2)))}, ShapeError, r"shape \(1, 2\); expected the shape \(2, 2\)"),
    ({"deep": {"bias": np.array([1, np.nan, 0])}}, NotFiniteError, r"rank 0.*update\['deep.bias'\] holds nan at \[1\]"),
    ({"wv": (np.array([1]), np.array([[np.inf, 0]]))}, NotFiniteError, r"holds inf at \[0, 0\]"),
])
def test_an_update_that_does_not_fit_is_refused(update, error, message):
    with pytest.raises(error, match=message):
        train(update)


def test_sums_beyond_the_range_of_a_type_are_no_infinities():
    train({"deep": {"bias": np.full(3, 2e38, np.float32)}})


@pytest.mark.parametrize(("data", "options", "error", "message"), [
    ([], {}, DataError, "data is empty"),
    (np.zeros((0, 3)), {}, DataError, "data is empty"),
    (iter([]), {"batch_size": 1}, DataError, "data gave no items in epoch 1"),
    (iter([1]), {}, ParameterError, "no length, so it cannot be cut into partitions; give batch_size, or list"),
    (iter([1]), {"batch_size": 1, "epochs": 2}, ParameterError, "can be read once, but epochs is 2"),
    (iter([1]), {"batch_size": 1, "shuffle": True}, ParameterError, "cannot be shuffled"),
    (5, {}, DataError, "data is of type int; expected a sequence"),
    ("text", {}, DataError, "of type str"),
    ({1: 2}, {}, DataError, "of type dict"),
    ([1], {"batch_size": 0}, ParameterError, "batch_size is 0"),
    ([1], {"partitions": 0}, ParameterError, "partitions is 0"),
    ([1], {"partitions": 2, "batch_size": 3}, ParameterError, "both given"),
    ([1], {"epochs": 0}, ParameterError, "epochs is 0"),
    ([1], {"fetch_every": 0}, ParameterError, "fetch_every is 0"),
    ([1], {"seed": -1}, ParameterError, "seed is -1"),
], ids=str)
def test_data_and_options_out_of_range_are_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        train({}, data, **options)


@pytest.mark.parametrize(("parameters", "message"), [
    (lambda model: {}, "is empty"), (lambda model: {"w": 3}, r"\['w'\] is of type int; expected an array"),
    (lambda model: {"w": np.broadcast_to(0.0, 3)}, "read-only"),
])
def test_parameters_are_arrays_that_can_be_moved(parameters, message):
    with pytest.raises(ParameterError, match=message):
        train({}, parameters=parameters)


def test_callbacks_are_callable():
    with pytest.raises(ParameterError, match="parameters is 3; expected a function"):
        pyddl.ParameterServer(None, parameters=3)
    with pyddl.ParameterServer(None) as server:
        with pytest.raises(ParameterError, match=r"gradient is None; expected a function of \(model, items\)"):
            server.train([1], None, append)
        with pytest.raises(ParameterError, match=r"descent is 'x'; expected a function of \(model, update\)"):
            server.train([1], all_of, "x")


def test_arguments_of_the_server_are_checked():
    with pytest.raises(ParameterError, match="on_failure is 'go'; expected one of continue, end"):
        pyddl.ParameterServer(None, on_failure="go")
    with pytest.raises(ParameterError, match="timeout is -1"):
        pyddl.ParameterServer(None, timeout=-1)
    with pytest.raises(ParameterError, match="outside of the server's with block"):
        pyddl.ParameterServer(None).train([1], all_of, append)


def test_a_model_that_cannot_travel_is_refused_with_the_cure():
    with (pytest.raises(ParameterError, match=r"of type function, cannot be sent.*parameters=lambda model"),
          pyddl.ParameterServer(lambda: 0) as server):
        server.train([1], all_of, append)


def test_a_failing_descent_says_which_update_it_was():
    with pytest.raises(ZeroDivisionError) as failure, pyddl.ParameterServer(Seen()) as server:
        server.train([1, 2], all_of, lambda model, update: 1 / 0)
    if hasattr(failure.value, "__notes__"):  # Python 3.11
        assert "update of rank 0 for items 0 to 1 of epoch 1, a dictionary of 'items'" in failure.value.__notes__[0]



def test_the_program_in_the_documentation_runs(capsys):
    page = Path(__file__).parents[2] / "docs/callbacks.md"
    program = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    exec(compile(program, str(page), "exec"), {})
    assert capsys.readouterr().out.startswith("[1. 2. 3.] Report(updates=340, items=20000, ")
