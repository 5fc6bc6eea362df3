"""Objects between two ranks: whatever its size, layout or place in the object, an array arrives as it was."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support import assert_on_all_ranks

from pyddl.callbacks import link
from pyddl.callbacks.link import Link, Packed, Patience, birth_of
from pyddl.errors import PeerLost


def objects():
    x = np.random.default_rng(2).standard_normal((300, 70))
    return [{}, 0, "text", x, x[::2, 3:], np.asfortranarray(x), x[:0], x[0, 0], np.arange(5), x.astype("f4").T,
            [x, {"a": (np.arange(3), x), "again": x}], np.array([{"an": "object"}, 2], dtype=object), b"0" * 100_000]


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("value", objects(), ids=lambda value: type(value).__name__)
def test_an_unpacked_object_equals_the_packed_one_and_shares_nothing(value, copy):
    unpacked = Packed(value, copy=copy).unpack()
    assert equal(unpacked, value)
    if isinstance(value, np.ndarray):
        assert not np.shares_memory(unpacked, value)
        assert unpacked.flags.writeable


def test_large_arrays_stay_outside_of_the_pickle():
    x = np.zeros(100_000)
    packed = Packed({"x": x, "small": np.zeros(3)})
    assert [frame.size for frame in packed.frames[1:]] == [x.nbytes]
    assert np.shares_memory(packed.frames[1], x)
    assert packed.frames[0].size < 1000
    assert not np.shares_memory(Packed(x, copy=True).frames[1], x)


@pytest.mark.mpi
@pytest.mark.parametrize("chunk", [link.CHUNK, 1000])
def test_objects_arrive_in_order(world, monkeypatch, chunk):
    if world.size == 1:
        pytest.skip("a link has two ends")
    monkeypatch.setattr(link, "CHUNK", chunk)  # as with arrays beyond what one MPI call takes
    comm = world.mpi.Dup()
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    out, back = Link(comm, right), Link(comm, left)
    for value in objects():
        out.send(Packed(value))
    received = []
    patience = Patience()
    while len(received) < len(objects()) or not out.idle():
        if (value := back.poll()) is None:
            patience.wait()
        else:
            received.append(value)
    comm.Barrier()
    comm.Free()
    assert_on_all_ranks(world, equal(received, objects()), [type(value) for value in received])


def test_a_birth_is_of_a_process_that_lives():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert int(birth_of(child.pid)) >= int(birth_of(os.getpid()))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert birth_of(child.pid) == ""  # what remains of it until it is waited for
    child.wait()
    assert birth_of(child.pid) == ""


def test_a_process_that_has_ended_is_seen():
    pytest.importorskip("mpi4py")
    watch = Link.__new__(Link)  # without MPI
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watch.peer, watch._process, watch._birth = 3, child.pid, birth_of(child.pid)
    watch.watch()
    child.kill()
    child.wait()
    with pytest.raises(PeerLost, match="rank 3 was lost: its process has ended"):
        watch.watch()
