"""A callback raises, a rank dies or never answers: all end soon and say why, or go on where that is wanted."""

import re
import sys
import time

import pytest
import support

from pyddl.comm import launcher
from pyddl.errors import CommError

SOON = 30  # seconds from the failure to the end, on a machine that does much else; it takes about one

TRAIN = """
    import os, pathlib, signal, sys, time
    import numpy as np, pyddl

    rank, calls = pyddl.world().rank, 0
    failing = pathlib.Path(__file__).with_name("failing")

    def fail(what):
        failing.touch()
        os.write(2, f"failing at {{time.time()}}\\n".encode())
        exec(what)

    def gradient(model, items):
        global calls
        calls += 1
        if rank == 2 and calls == 3:
            fail({gradient!r})
        while calls == 10 and {gradient!r} != "pass" and not failing.exists():  # leave rank 2 enough to fail in
            time.sleep(0.001)
        return {{"w": np.full(20_000, len(items))}}

    def descent(model, update):
        global calls
        calls += 1
        if calls == 5:
            fail({descent!r})
        model["w"] += update["w"]

    def train():
        with pyddl.ParameterServer(model{server}) as server:
            {before}
            report = server.train(range(1000), gradient, descent, batch_size=20, epochs={epochs})
        print(rank, "went on,", server.model["w"].min(), server.model["w"].max(), report.items, "lost", report.lost)

    model = {{"w": np.zeros(20_000)}}
    {run}
"""


def script(*, gradient="pass", descent="pass", server="", before="", epochs=1, run="train()"):
    return TRAIN.format(gradient=gradient, descent=descent, server=server, before=before, epochs=epochs, run=run)


@pytest.mark.parametrize(("where", "failure", "said"), [
    ("gradient", "raise ValueError('lost the thread')", "rank 2 of 3: Traceback"),
    ("descent", "raise ValueError('lost the thread')", "rank 0 of 3: Traceback"),
    ("gradient", "sys.exit(0)", "rank 2 of 3: sys.exit(0) while the other ranks go on"),
    ("gradient", "os.kill(os.getpid(), signal.SIGKILL)", ""),
    ("descent", "os.kill(os.getpid(), signal.SIGKILL)", ""),
    ("gradient", "os._exit(3)", ""),
])
def test_one_rank_s_failure_soon_ends_all(mpirun, where, failure, said):
    done = mpirun(3, script(**{where: failure}))
    ended = time.time()
    assert done.code not in (0, None), done
    assert "went on" not in done.out
    assert said in done.err, done.err
    assert done.err.count("Traceback") == ("raise" in failure), done.err
    assert ended - float(re.search(r"failing at ([\d.]+)", done.err)[1]) < SOON


def test_a_failing_descent_names_the_worker_whose_update_it_was(mpirun):
    done = mpirun(3, script(descent="raise ValueError('lost the thread')"))
    assert "ValueError: lost the thread" in done.err
    if sys.version_info >= (3, 11):
        assert re.search(r"in descent, with the update of rank [12] for items \d+ to \d+ of epoch 1, a dictionary of "
                         r"'w': a int64 array of shape \(20000,\)", done.err), done.err


@pytest.mark.parametrize("where", ["gradient", "descent"])
def test_a_failure_that_its_rank_survives_does_not_leave_the_others_waiting(mpirun, where):
    caught = """
    try:
        train()
    except Exception as error:
        print(rank, "caught", error)
    """
    done = mpirun(3, script(**{where: "raise ValueError('lost the thread')"}, run=caught))
    assert done.code == 0, done
    who = {"gradient": 2, "descent": 0}[where]
    for rank in range(3):
        said = re.search(rf"{rank} caught (.*)", done.out)[1]
        if rank == who:
            assert said == "lost the thread"
        else:
            assert f"rank {who}" in said and "ValueError: lost the thread" in said


@pytest.mark.parametrize("where", ["gradient", "descent"])
def test_a_rank_that_dies_is_noticed_where_mpi_says_nothing(ulfm, where):
    """With fault tolerance Open MPI leaves the others alive; the lost worker's rank is named."""
    done = ulfm(3, script(**{where: "os.kill(os.getpid(), signal.SIGKILL)"}))
    assert "went on" not in done.out
    lost = {"gradient": 2, "descent": 0}[where]
    assert f"rank {lost} was lost" in done.err, done
    assert done.code is not None


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ranks_that_abort_at_once_do_not_stop_the_launcher(ulfm):
    """Open MPI's launcher hung in a fifth of such runs, or ended with 0."""
    for _ in range(50):
        done = ulfm(3, script(gradient="os.kill(os.getpid(), signal.SIGKILL)"))
        assert done.code not in (0, None), done


@pytest.mark.parametrize("failure", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"])
def test_a_lost_worker_s_work_is_done_by_others_where_that_is_wanted(ulfm, failure):
    done = ulfm(4, script(gradient=failure, server=", on_failure='continue'", epochs=2))
    assert done.code is not None, "the others did not end"
    assert "rank 2 was lost" in done.err and "going on with 2 workers" in done.err, done.err
    for rank in (0, 1, 3):  # each item counts once in each epoch, whoever did it
        assert f"{rank} went on, 2000.0 2000.0 2000 lost [2]" in done.out, done


@pytest.mark.parametrize("late", [0, 3])
def test_after_a_loss_each_may_take_its_time_after_training(ulfm, late):
    """Open MPI's launcher would kill them all when the first has ended."""
    after = f"""
    train()
    time.sleep(2 * (rank == {late}))
    os.write(2, f"{{rank}} is ready\\n".encode())
    """
    done = ulfm(4, script(gradient="os._exit(3)", server=", on_failure='continue'", run=after))
    assert done.code is not None, done
    assert all(f"{rank} is ready" in done.err and f"{rank} went on" in done.out for rank in (0, 1, 3)), done


def test_without_workers_the_server_does_not_go_on(ulfm):
    kill = script(gradient="os.kill(os.getpid(), signal.SIGKILL)", server=", on_failure='continue'")
    done = ulfm(3, kill.replace("rank == 2 and", ""))
    assert "all workers are lost, the last by this: rank" in done.err, done


@pytest.fixture
def ulfm(tmp_path):
    """As ``mpirun``, with an Open MPI 5 that is told to leave the others alive when a rank dies."""
    import os
    import textwrap

    try:
        found = launcher.find()
    except CommError as error:
        pytest.skip(str(error))
    if found.family != "Open MPI" or found.major < 5:
        pytest.skip(f"{found.family} {found.version} has no --with-ft ulfm")

    def start(ranks, program):
        file = tmp_path / "script.py"
        file.write_text(textwrap.dedent(program))
        file.with_name("failing").unlink(missing_ok=True)
        line, environ = launcher.command(ranks, support.python(file), threads=1, environ=dict(os.environ))
        return support.run([line[0], "--with-ft", "ulfm", *line[1:]], environ)

    return start


@pytest.mark.parametrize(("change", "said"), [
    (("batch_size=20", "batch_size=20 + rank"), "ParameterError: batch_size is 20 on rank 0, but 21 on rank 1"),
    (("range(1000)", "range(1000 - rank)"), "DataError: data has 1000 items on rank 0, but rank 1 has 999 items"),
    (("range(1000)", "range(1000) if rank == 0 else None"), "DataError: data is of type NoneType"),
    (("range(1000)", "range(1000) if rank == 0 else iter([1])"), "but rank 1 has data without length"),
    ((".zeros(20_000)", ".zeros(20_000 + rank)"), "ShapeError: parameters(model)['w'] is a float64 array of shape "
     "(20001,) on rank 1, but a float64 array of shape (20000,) on rank 0"),
    (('"w": np.full(20_000', '"v": np.full(20_000'), "update['v'] has no place in the model; parameters(model) has"),
    ((".full(20_000", ".full(19_999"), "update['w'] is a int64 array of shape (19999,); expected the shape (20000,)"),
    (("len(items)", "np.nan"), "NotFiniteError: rank 1, items "),
], ids=["options", "lengths", "no data", "no length", "models", "key", "shape", "nan"])
def test_ranks_that_do_not_agree_are_told(mpirun, change, said):
    program = script(server=", parameters=lambda model: model")
    assert change[0] in program
    done = mpirun(2, program.replace(*change))
    assert done.code not in (0, None) and "went on" not in done.out, done
    assert said in done.err, done.err


def test_a_worker_that_never_answers_is_named(mpirun):
    done = mpirun(3, script(gradient="time.sleep(1000)", server=", timeout=4"))
    assert done.code not in (0, None), done
    assert re.search(r"no worker has sent anything for 4 s: rank 2 has not sent its update for items \d+ to \d+ of "
                     "epoch 1; a larger timeout", done.err), done.err


def test_a_worker_that_never_comes_is_named(mpirun):
    done = mpirun(3, script(server=", timeout=4", before="time.sleep(1000 * (rank == 2))"))
    assert done.code not in (0, None), done
    assert "rank 2 has not come to train" in done.err, done.err


def test_ctrl_c_ends_an_idle_server(mpirun):
    interrupt = "rank or [signal.signal(signal.SIGALRM, signal.default_int_handler), signal.alarm(1)]"
    done = mpirun(3, script(gradient="time.sleep(1000)", before=interrupt))
    assert done.code not in (0, None), done
    assert "rank 0 of 3: Traceback" in done.err and "KeyboardInterrupt" in done.err, done.err
