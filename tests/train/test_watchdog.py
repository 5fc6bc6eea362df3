"""Ranks that wait for ever are found out: the report names the right one, and the job ends."""

import json
import re
import threading

import numpy as np
import pytest
import small_runs
import support

from pyddl.comm.activity import Activity
from pyddl.comm.operations import Compute, Sum
from pyddl.models import Autoencoder
from pyddl.train.watchdog import Watchdog, report

LIMIT = 3.0 * support.PATIENCE
"""Of which a rank has three tenths to answer a call, on a machine that may do much else."""

TRAIN = """
    import ctypes, os, sys, time
    import numpy as np, pyddl
    from pyddl.comm.operations import *
    from pyddl.models import Autoencoder
    from pyddl.strategies import Strategy
    from pyddl.train import Trainer

    rank, out, limit = pyddl.world().rank, sys.argv[1], {limit}

    def trouble():
        {trouble}

    class Model(Autoencoder):
        def gradient(self, parameters, gradients, buffers, batch):
            if batch.step == 3 and rank == 1:
                trouble()
            return super().gradient(parameters, gradients, buffers, batch)

    {more}

    rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
    options = dict(batch_size=50, epochs=4, timeout=limit) | dict({options})
    Trainer(Model(20, hidden=(8, 3)), out=out or None, **options).fit(rows)
    print("went on")
"""


def train(mpirun, out, trouble="pass", more="", options="", limit=LIMIT, ranks=3):
    done = mpirun(ranks, TRAIN.format(trouble=trouble, more=more, options=options, limit=limit), str(out))
    assert done.code not in (0, None), done
    assert "went on" not in done.out
    return done


def test_a_rank_that_never_returns_is_named_and_all_write_their_stacks(mpirun, tmp_path):
    done = train(mpirun, tmp_path / "run", "time.sleep(1000)")
    assert "rank 1 in Compute" in done.err and "ranks 0, 2 in Sum of 464 values" in done.err, done
    assert "missing" not in done.err
    stacks = (tmp_path / "run/log/rank-1.txt").read_text()
    assert "in trouble" in stacks  # Python's
    assert "clock_nanosleep" in stacks or "select" in stacks  # the C library's; Python 3.10 sleeps by select
    assert "_mpi." in (tmp_path / "run/log/rank-0.txt").read_text()


def test_a_rank_that_holds_the_interpreter_lock_is_missing_but_leaves_its_stack(mpirun, tmp_path):
    done = train(mpirun, tmp_path / "run", "ctypes.PyDLL(None).sleep(1000)")
    assert "missing: rank 1;" in done.err and "ranks 0, 2 in Sum" in done.err, done
    assert "in trouble" in (tmp_path / "run/log/rank-1.txt").read_text()


def test_a_rank_that_leaves_training_early_is_named(mpirun):
    done = train(mpirun, "", more="""
    if rank == 1:
        try:
            bad = type("Bad", (Model,), {"gradient": lambda *arguments: 1 / 0})
            same = np.random.default_rng(5).random((203, 20), dtype=np.float32)
            Trainer(bad(20, hidden=(8, 3)), batch_size=50, epochs=4, timeout=limit).fit(same)
        except ZeroDivisionError:
            time.sleep(1000)  # the program goes on with something else
    """)
    assert "rank 1 has left training by ZeroDivisionError" in done.err and "ranks 0, 2 in Sum" in done.err, done


# ---- one rank's thread -----------------------------------------------------------------------------------------

class Ended(threading.Event):
    """Stands for the end of the job."""

    def __call__(self, code):
        self.code = code
        self.set()


class Clock:
    """Stands for the module ``time``: seconds pass only when someone sleeps."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def pass_a_tenth_of_a_second(self, *dogs):
        self.sleep(0.1)
        for dog in dogs:
            dog._look()


def test_progress_of_one_rank_keeps_all_from_being_stuck(tmp_path, capfd, monkeypatch):
    clock, ended = Clock(), Ended()
    monkeypatch.setattr("pyddl.train.watchdog.time", clock)
    idle, busy = Activity(), Activity()
    dogs = [Watchdog(activity, tmp_path, rank, 2, 1.0, ended) for rank, activity in enumerate([idle, busy])]
    for dog in dogs:
        dog._looked = clock.now

    idle.begin(Sum(np.zeros(3, np.float32)))
    for _ in range(50):
        busy.beat()
        clock.pass_a_tenth_of_a_second(*dogs)
    assert not ended.is_set()
    busy.begin(Compute())
    for _ in range(30):
        clock.pass_a_tenth_of_a_second(*dogs)
    assert ended.is_set() and ended.code == 1
    said = capfd.readouterr().err
    assert "rank 0 in Sum of" in said and "rank 1 in Compute (number 1)" in said
    assert (tmp_path / "rank-1.txt").read_text().startswith("rank 1, process")


def test_moving_bytes_are_progress_only_while_files_are_written(tmp_path, monkeypatch):
    clock, ended, activity = Clock(), Ended(), Activity()
    monkeypatch.setattr("pyddl.train.watchdog.time", clock)
    dog = Watchdog(activity, tmp_path, 0, 1, 1.0, ended)
    dog._looked = clock.now
    with open(tmp_path / "big", "wb", buffering=0) as file:

        def write():
            file.write(b"x")
            clock.pass_a_tenth_of_a_second(dog)

        with activity.files("writing a checkpoint"):
            for _ in range(50):
                write()
        assert not ended.is_set()
        for _ in range(30):
            write()
    assert ended.is_set()


def test_a_folder_that_cannot_be_written_leaves_each_rank_to_itself(tmp_path, capfd):
    ended = Ended()
    (tmp_path / "file").touch()
    with Watchdog(Activity(), tmp_path / "file" / "log", 3, 4, 0.1, ended):
        assert ended.wait(100)
    assert "rank 3: no progress" in capfd.readouterr().err


def test_leaving_by_an_exception_tells_the_others(tmp_path):
    with pytest.raises(ZeroDivisionError), Watchdog(Activity(), tmp_path, 1, 2, 60):
        raise ZeroDivisionError
    assert json.loads((tmp_path / "rank-1.json").read_text())["left"] == "ZeroDivisionError"


def test_the_report_puts_those_behind_first(tmp_path):
    at = {"doing": "Sum of 9 values", "number": 7, "idle": 2.0, "left": None}
    behind, left = {**at, "doing": "Compute", "number": 6}, {**at, "left": "SystemExit"}
    text = report({0: at, 1: behind, 2: at, 3: left}, 6, 2, tmp_path)
    lines = text.splitlines()
    assert lines[1] == "  rank 1 in Compute (number 6) for 2.0 s"
    assert lines[2] == "  ranks 0, 2 in Sum of 9 values (number 7) for 2.0 s"
    assert "rank 3 has left training by SystemExit" in lines[3]
    assert lines[4].startswith("  missing: ranks 4, 5;")


# ---- debug mode ------------------------------------------------------------------------------------------------

@pytest.mark.mpi
@pytest.mark.parametrize("options", [
    {}, {"shard_optimizer": True}, {"strategy": "averaging", "period": 2}, {"strategy": "server"},
    {"strategy": "elastic"}, {"strategy": "gossip"}, {"strategy": "sequential"}, {"strategy": "split"},
    {"strategy": "local"},
], ids=lambda options: "-".join(map(str, options.values())) or "allreduce")
def test_debug_mode_finds_nothing_wrong_with_a_whole_run(world, tmp_path, options):
    if world.size == 1 and options.get("strategy") not in (None, "local"):
        pytest.skip("needs two ranks")
    out = world.transport.gather_objects(tmp_path / "run")[0]
    model = Autoencoder(20, hidden=(8, 4))
    small_runs.train(out, model, epochs=1, debug=True, **options)
    result = small_runs.train(out, model, debug=True, resume=True, **options)
    assert len(result.metrics) == 4 and result.summary["finished"]


@pytest.mark.parametrize(("worker", "said"), [
    ("""while (yield BeginStep()):
            yield Sum(me.gradients[:32 if rank == 1 else 64], 1)
            yield StepDone()""",
     "ranks 0, 2: sum of 64 float32 (operation 2); rank 1: sum of 32 float32 (operation 2)"),
    ("""yield BeginStep()
        for _ in me.turns():
            if rank != 1:
                yield Compute()
            yield Sum(me.gradients, 1)""",
     "ranks 0, 2: sum of 464 float32 (operation 3); rank 1: sum of 464 float32 (operation 2)"),
    ("""while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                if rank != 1:
                    yield Sum(me.gradients, 1)
            yield StepDone()""", "rank 1: gather"),
    ("""yield BeginStep()
        if rank == 1:
            yield Average(np.zeros(6, np.float32), [np.zeros(6, np.float32)], [1])
        else:
            yield Average(np.zeros(7, np.float32), [np.zeros(7, np.float32)], [1])""",
     "ranks 0, 2: average (world) of 7 float32 (operation 2); rank 1: average (world) of 6 float32 (operation 2)"),
    ("yield GatherFromOwners(me.parameters[:64 if rank else 32])",
     "rank 0: gather from owners of 32 float32 (operation 1); ranks 1, 2: gather from owners of 64 float32"),
    ("yield SumToOwners(me.gradients, 1) if rank else Sum(me.gradients, 1)",
     "rank 0: sum of 464 float32 (operation 1); ranks 1, 2: sum to owners of 464 float32 (operation 1)"),
    ("""if rank < 2:
            yield Exchange(me.parameters[:64 if rank else 32], np.zeros(64, np.float32), 1 - rank)""",
     "rank 0: exchange of 32 float32; rank 1: exchange of 64 float32"),
])
def test_debug_mode_names_what_differs(mpirun, worker, said):
    done = train(mpirun, "", options="strategy=Odd(), debug=True", limit=30, more=f"""
    class Odd(Strategy):
        name, synchronous, replicated = "odd", True, True

        def worker(self, me):
            {worker.replace(chr(10), chr(10) + "    ")}
    """)
    assert said in re.sub(r"collective \d+, ", "", done.err), done.err
