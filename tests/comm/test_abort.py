"""A rank that fails ends all ranks, soon, and its traceback says which one it was."""

import contextlib
import os
import subprocess
import sys

import pytest
from support import assert_on_all_ranks

from pyddl.comm import faults as module
from pyddl.comm.faults import Faults

WAIT = "pyddl.world().transport.barrier()"  # the others wait for the failing rank


@pytest.mark.parametrize(("failure", "code", "said"), [
    ("raise ValueError('lost the thread')", 1, "rank 1 of 3: Traceback"),
    ("raise KeyboardInterrupt", 130, "rank 1 of 3: Traceback"),
    ("""threading.Thread(target=lambda: 1 / 0).start()
            time.sleep(60)""", 1, "rank 1 of 3: Traceback"),
])
def test_an_uncaught_exception_ends_all_ranks(mpirun, failure, code, said):
    done = mpirun(3, f"""
        import threading, time, pyddl
        if pyddl.world().rank == 1:
            {failure}
        {WAIT}
        print("went on")
    """)
    assert done.code == code, done
    assert said in done.err and done.err.count("Traceback") == 1, done.err  # mpirun's own words may come before
    assert "went on" not in done.out


@pytest.mark.parametrize(("failure", "said"), [("raise ValueError('of all')", "rank 0 of 3: Traceback"),
                                               ("rank and sys.exit('of two')", "of two\nrank 1 of 3: exit status 1")])
def test_a_fault_of_several_ranks_is_told_once(mpirun, failure, said):
    done = mpirun(3, f"""
        import sys, pyddl
        from pyddl.comm import abort, faults
        abort.AFTER_OTHERS = 50.0  # a launcher may be slow to end those who are silent, and who wait
        def main():
            rank = pyddl.world().rank
            if {failure.startswith("raise")} or rank > 1:
                faults.PATIENCE = 50.0  # the rank below does fail, be it late
            {failure}
            {WAIT}
        pyddl.comm.run_main(main)
    """)
    assert said in done.err and sum(line.startswith("rank ") for line in done.err.splitlines()) == 1, done.err


@pytest.mark.mpi
def test_a_rank_is_silent_where_the_one_below_fails_alike(world, monkeypatch):
    from mpi4py import MPI

    for kinds, silent in (("AAAA", "-+++"), ("ABBA", "--+-"), ("-AAB", "--+-"), ("A-AA", "---+")):
        # On a busy machine a word may be late; where none will come a rank need not wait for long.
        monkeypatch.setattr(module, "PATIENCE", 0.1 if kinds[(world.rank - 1) % 4] == "-" else 60.0)
        faults, mine = Faults(MPI.COMM_WORLD), kinds[world.rank % 4]
        told = mine != "-" and faults.told(mine)
        assert_on_all_ranks(world, told == (silent[world.rank % 4] == "+"), (kinds, told))


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("return 4", 4), ("sys.exit('no')", 1),
                                              ("raise OSError('gone')", 1)])
def test_run_main_ends_all_ranks_with_the_status_of_the_first(mpirun, ending, code):
    done = mpirun(3, f"""
        import sys, pyddl
        def main():
            if pyddl.world().rank == 2:
                {ending}
            {WAIT}
        pyddl.comm.run_main(main)
    """)
    assert done.code == code, done
    assert "rank 2 of 3: " in done.err


@pytest.mark.parametrize("status", [0, 75])
def test_run_main_lets_agreed_ends_be(mpirun, status):
    done = mpirun(2, f"""
        import pyddl, time
        def main():
            time.sleep(0.3 * pyddl.world().rank)  # the first to end must not end the other
            print("done", pyddl.world().rank, flush=True)
            return {status}
        pyddl.comm.run_main(main)
    """)
    assert done.code == status, done
    assert sorted(done.out.split()) == ["0", "1", "done", "done"]


def test_run_main_alone_is_plain_python(mpirun):
    done = mpirun(1, "import pyddl.comm; pyddl.comm.run_main(lambda: 7)")
    assert done.code == 7


def test_one_rank_of_a_node_aborts_where_the_launcher_would_not_bear_two():
    def first(job, tolerant="1"):
        return subprocess.Popen(
            [sys.executable, "-c", "import sys; from pyddl.comm import abort; "
             "print(abort.first_of_node(), flush=True); sys.stdin.read()"],
            env={**os.environ, "OMPI_MCA_mpi_ft_enable": tolerant, "PMIX_NAMESPACE": f"{os.getpid()}-{job}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    for jobs, firsts in (("aaa", 1), ("ab", 2)):
        with contextlib.ExitStack() as open_ones:
            ranks = [open_ones.enter_context(first(job)) for job in jobs]
            said = [rank.stdout.readline().strip() for rank in ranks]
            assert said.count("True") == firsts and said.count("False") == len(jobs) - firsts, said
    with first("c", "0") as one, first("c", "0") as two:
        assert one.stdout.readline() == two.stdout.readline() == "True\n"
