"""A child of a rank: a world of its own, whose failure ends nobody else, and which ends with its parent."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import support

from pyddl.comm import abort
from pyddl.comm import world as world_of
from pyddl.comm.child import Child
from pyddl.errors import CommError


def answer(work):
    """What a child has sent, and how it ended."""
    child = Child(work)
    try:
        said = child.connection.recv()
    except EOFError:
        said = None
    return said, child.wait()


@pytest.mark.parametrize(("work", "expected"), [
    (lambda connection: connection.send(os.getpid() != PARENT), (True, 0)),
    (lambda connection: os.kill(os.getpid(), signal.SIGKILL), (None, -signal.SIGKILL)),
    (lambda connection: os._exit(3), (None, 3)),
    (lambda connection: sys.exit(0), (None, 1)),  # that is no end of its work
    (lambda connection: np.zeros(10) + np.zeros(11), (None, 1)),
])
def test_how_a_child_ends(work, expected):
    assert answer(work) == expected


PARENT = os.getpid()


@pytest.mark.mpi(min_size=2)
def test_a_child_of_a_rank_is_alone_and_ends_no_other(world):
    def work(connection):
        connection.send((world_of().size, abort.installed()))
        raise ValueError("nobody else's business")

    assert answer(work) == ((1, False), 1)
    assert world.transport.gather_objects(world.rank) == list(range(world.size)) and abort.installed()


@pytest.mark.mpi(min_size=2)
def test_an_error_within_use_reaches_those_who_wait(world):
    with pytest.raises((ValueError, CommError)) as found, world_of_all() as here:
        if here.rank == here.size - 1:
            raise ValueError("this one alone")
        here.transport.sum(np.ones(1000, np.float32))
    assert (found.type is ValueError) == (world.rank == world.size - 1)
    assert world.transport.gather_objects(world.rank) == list(range(world.size))


def world_of_all():
    from mpi4py import MPI

    from pyddl.comm.world import use

    return use(MPI.COMM_WORLD)


def test_it_ends_when_its_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text("import time\nfrom pyddl.comm.child import Child\n"
                      "child = Child(lambda connection: time.sleep(60))\nprint(child.process, flush=True)\n"
                      "time.sleep(60)\n")
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert not support.ended(child)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 100
    while not support.ended(child):
        assert time.monotonic() < until
        time.sleep(0.01)
