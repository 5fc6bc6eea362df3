"""Vectors in shared memory: sums over the ranks of a node, the life of views, failures."""

import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from support import assert_on_all_ranks

import pyddl.comm
from pyddl.comm.cut import shares
from pyddl.comm.group import Groups

LENGTHS = [1, 15, 1023, 1024, 1025, 5000, 32_768, 32_769, 100_003]


def part(rank, n):
    return np.random.default_rng([rank, n]).standard_normal(n).astype(np.float32)


def tree_sum(parts):
    """Splits at the largest power of two, as the sums of a node do."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


def leftovers():
    return sorted(Path("/dev/shm").glob("pyddl-*"))


# ---- sums --------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("shared", [True, False])
def test_sum_in_a_node_has_the_bits_of_the_tree(world, n, shared):
    x = world.transport.allocate(n) if shared else np.empty(n, np.float32)
    expected = tree_sum([part(rank, n) for rank in range(world.size)])
    for _ in range(3):  # the halves of staging memory take turns
        x[:] = part(world.rank, n)
        count = world.transport.sum(x, count=world.rank)
        assert_on_all_ranks(world, count == sum(range(world.size)), count)
        same = np.array_equal(x, expected) if world.nodes == 1 else np.allclose(x, expected, atol=1e-5)
        assert_on_all_ranks(world, same, np.flatnonzero(x != expected)[:5])


@pytest.mark.mpi
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("shared", [True, False])
def test_owners_get_their_share_of_the_sum_and_give_it_to_all(world, n, shared):
    sums, shown = (world.transport.allocate(n) if shared else np.zeros(n, np.float32) for _ in range(2))
    total = tree_sum([part(rank, n) for rank in range(world.size)])
    with Groups(world) as groups:
        group, bounds = groups["world"], shares(n, world.size)
        mine = slice(bounds[world.rank], bounds[world.rank + 1])
        for turn in range(3):
            sums[:] = part(world.rank, n)
            count, flagged = group.sum_to_owners(sums, world.rank, flag=world.rank == turn)
            assert_on_all_ranks(world, count == sum(range(world.size)) and flagged == (turn < world.size), count)
            same = np.array_equal if world.nodes == 1 else np.allclose
            assert_on_all_ranks(world, same(sums[mine], total[mine]), np.flatnonzero(sums[mine] != total[mine])[:5])
            shown[:] = np.nan
            shown[mine] = turn * total[mine]
            group.gather_from_owners(shown)
            assert_on_all_ranks(world, np.array_equal(shown, turn * total), np.flatnonzero(shown != turn * total)[:5])
            shown[:] = np.nan  # nobody may see this who has not yet taken the values before


@pytest.mark.mpi
def test_sum_of_a_slice_of_a_shared_vector_leaves_the_rest_alone(world):
    x = world.transport.allocate(10_000)
    x[:] = np.arange(10_000)
    for begin, end in ((17, 5017), (3, 40), (0, 0), (9_000, 10_000)):
        expected = x.copy()
        expected[begin:end] *= world.size
        world.transport.sum(x[begin:end])
        assert_on_all_ranks(world, np.array_equal(x, expected), (begin, end))


@pytest.mark.mpi
def test_a_new_vector_is_zero_aligned_and_writable(world):
    for n in (0, 1, 1000):
        x = world.transport.allocate(n)
        assert x.dtype == np.float32
        assert x.shape == (n,)
        assert not x.any()
        assert x.ctypes.data % 64 == 0 or n == 0
        x[:] = world.rank
        world.transport.barrier()
        assert_on_all_ranks(world, (x == world.rank).all(), "ranks share what should be their own")


@pytest.mark.mpi
def test_random_calls_agree_with_plain_arithmetic(world):
    """Many sizes, kinds of memory and operations in a row, the same on every rank."""
    draw = np.random.default_rng(7)
    vectors = [world.transport.allocate(n) for n in (100, 2000, 70_000)]
    for step in range(150):
        n = int(draw.choice([1, 3, 900, 1500, 40_000, 66_000]))
        home = vectors[draw.integers(3)]
        x = home[: min(n, len(home))] if draw.random() < 0.5 else np.empty(n, np.float32)
        x[:] = (world.rank + 1) * (step + np.arange(len(x)) % 7)
        world.transport.sum(x, ordered=bool(draw.random() < 0.3) and world.size in (2, 4))
        expected = world.size * (world.size + 1) / 2 * (step + np.arange(len(x)) % 7)
        ok = np.allclose(x, expected)
        if draw.random() < 0.3:
            lengths = [len(v) for v in world.transport.gather(np.zeros(world.rank + step))]
            ok = ok and lengths == [rank + step for rank in range(world.size)]
        if step % 25 == 0:
            assert_on_all_ranks(world, ok, (step, n))
        assert ok


@pytest.mark.mpi
def test_gather_of_vectors_too_long_for_staging_memory(world):
    lengths = [40_000 * (rank % 2) + rank for rank in range(world.size)]
    parts = world.transport.gather(np.full(lengths[world.rank], world.rank + 0.5))
    ok = [len(p) for p in parts] == lengths and all((p == r + 0.5).all() for r, p in enumerate(parts))
    assert_on_all_ranks(world, ok)


@pytest.mark.parametrize(("ranks", "per_node"), [(3, 1), (3, 2), (4, 2), (5, 2), (6, 4)])
def test_several_nodes_of_unequal_size(mpirun, ranks, per_node):
    done = mpirun(ranks, """
        import sys, numpy as np, pyddl
        world = pyddl.world()
        t = world.transport
        P = t.size
        assert world.nodes == -(-P // int(sys.argv[1]))
        assert t.kind == ("MPI" if world.nodes == P else "shared memory")
        total = P * (P + 1) / 2
        for n in (0, 1, 7, 1023, 1024, 5000, 32768, 100_003):
            for x in (t.allocate(n), np.empty(n, np.float32)):
                for ordered in (False, True) if P == 4 else (False,):
                    x[:] = (t.rank + 1) * (np.arange(n) % 10)
                    assert t.sum(x, count=t.rank, ordered=ordered) == P * (P - 1) // 2
                    np.testing.assert_array_equal(x, total * (np.arange(n) % 10))
            parts = t.gather(np.full(n + t.rank, t.rank + 0.5))
            assert [len(p) for p in parts] == [n + r for r in range(P)]
            assert all((p == r + 0.5).all() for r, p in enumerate(parts))
            x = np.full(n, t.rank)
            t.broadcast(x, root=P - 1)
            assert (x == P - 1).all()
        t.barrier()
        assert t.gather_objects(t.rank) == list(range(P))
        print("right")
    """, str(per_node), environ={"PYDDL_RANKS_PER_NODE": str(per_node)})
    assert done.code == 0, done.err
    assert done.out.count("right") == ranks


@pytest.mark.parametrize("level", [2, 3, 4])
def test_every_instruction_set_adds_the_same_bits(mpirun, level):
    done = mpirun(5, """
        import zlib, numpy as np, pyddl
        t = pyddl.world().transport
        x = t.allocate(5003)
        x[:] = np.random.default_rng(t.rank).standard_normal(5003)
        t.sum(x)
        print(zlib.crc32(x.tobytes()))
    """, environ={"PYDDL_LEVEL": str(level)})
    expected = tree_sum([np.random.default_rng(r).standard_normal(5003).astype(np.float32) for r in range(5)])
    assert done.out.count(str(zlib.crc32(expected.tobytes()))) == 5


def test_many_more_ranks_than_cores_keep_going(mpirun):
    """Waiting ranks must give up their cores; spinning, 3000 sums would take minutes."""
    done = mpirun(8, """
        import numpy as np, pyddl
        t = pyddl.world().transport
        x = t.allocate(5000)
        for _ in range(3000):
            x[:] = 1
            t.sum(x)
        assert (x == 8).all()
    """)
    assert done.code == 0, done.err


# ---- the life of vectors -----------------------------------------------------------------------------------


@pytest.mark.mpi
def test_views_live_and_die_in_every_order(world):
    transport = world.transport
    draw = np.random.default_rng(world.rank)  # another order on every rank
    vectors = [transport.allocate(3000) for _ in range(5)]
    views = [x[100:200].reshape(10, 10) for x in vectors]
    for x, i in zip(vectors, range(5), strict=True):
        x[:] = i
    del x
    for i in draw.permutation(5):
        vectors[i] = None
    assert_on_all_ranks(world, all((view == i).all() for i, view in enumerate(views)))
    for i in draw.permutation(5)[:3]:
        views[i] = None
    again = transport.allocate(3000)  # in the place of those dropped, perhaps
    assert not again.any()
    again[:] = 1
    transport.sum(again)
    assert_on_all_ranks(world, (again == world.size).all())


@pytest.mark.mpi
def test_vectors_outlive_the_world_they_were_made_in(world):
    from mpi4py import MPI

    with pyddl.use(MPI.COMM_WORLD) as narrow:
        x = narrow.transport.allocate(2000)
        x[:] = 1
        narrow.transport.sum(x)
        transport = narrow.transport
    del narrow, transport
    x += 1
    assert_on_all_ranks(world, (x == world.size + 1).all())
    world.transport.sum(x)  # by now a private vector like any other
    assert_on_all_ranks(world, (x == world.size * (world.size + 1)).all())


def test_vectors_may_be_touched_until_the_very_end(mpirun):
    done = mpirun(2, """
        import os, sys, pyddl
        x = pyddl.world().transport.allocate(1000)
        class Late:
            def __del__(self, x=x, write=os.write):
                x.fill(5)
                write(2, b"late 5 " if x[999] == 5 else b"lost ")
        sys.modules["keep"] = Late()
    """)
    assert done.code == 0, done.err
    assert done.err.count("late 5") == 2, done.err


@pytest.mark.mpi
def test_nothing_is_left_in_dev_shm_while_vectors_live(world):
    x = world.transport.allocate(1000)
    mine = [name for name in leftovers() if f"pyddl-{os.getpid()}-" in name.name]
    assert_on_all_ranks(world, not mine, mine)
    assert len(x) == 1000


def test_a_rank_killed_while_others_join_its_memory_leaves_nothing(mpirun):
    done = mpirun(2, """
        import os, pyddl
        from pyddl.comm import shared
        transport = pyddl.world().transport
        print(f"<{os.getpid()}>", flush=True)
        together, steps = shared.together, []
        def until_created(*given):
            together(*given)
            steps.append(1)
            if transport.rank == 0:
                print("created", flush=True)
                os.kill(os.getpid(), 9)
        shared.together = until_created
        transport.allocate(5000)
    """)
    assert "created" in done.out and done.code not in (None, 0), done
    pids = re.findall(r"<(\d+)>", done.out)
    assert not [name for name in leftovers() if name.name.split("-")[1] in pids]


def test_ranks_that_do_not_see_each_other_in_proc_share_memory_by_its_name(mpirun):
    done = mpirun(3, """
        import os, pyddl
        from pyddl.comm import _mpi
        transport = pyddl.world().transport
        shared_vectors, names = _mpi.SharedVectors, []
        def without_proc(channel, name, role, *size):
            names.append(name)
            if transport.rank == 2 and "/proc/" in name:
                raise pyddl.errors.CommError("open: no such process here")
            return shared_vectors(channel, name, role, *size)
        _mpi.SharedVectors = without_proc
        x = transport.allocate(5000)
        x[:] = 1
        transport.sum(x)
        left = [name for name in os.listdir("/dev/shm") if f"/{name}" in names]
        print((x == 3).all(), len(names), transport.is_shared(x), left)
    """)
    assert done.code == 0, done.err
    assert done.out.count("True 2 True []") == 3, done.out


def test_a_file_that_another_container_calls_alike_is_not_taken_for_the_memory(mpirun):
    done = mpirun(1, """
        import pyddl
        pyddl.comm.world()
        import mpi4py.MPI
        from pyddl.comm._mpi import Region
        mine = Region("/pyddl-of-a-test", "creates", 100, 1, 1)
        identity, path = mine.place.split("@")
        Region(mine.place, "joins", 100, 1, 1)
        try:
            Region(f"1{identity}@{path}", "joins", 100, 1, 1)
        except pyddl.errors.CommError as error:
            print(error)
    """)
    assert done.code == 0, done.err
    assert "which is another file here" in done.out


# ---- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(3)", "sys.exit(0)"])
def test_a_rank_that_is_gone_ends_the_others(mpirun, end):
    done = mpirun(3, f"""
        import os, sys, numpy as np, pyddl
        world = pyddl.world()
        x = world.transport.allocate(100_000)
        print(f"<{{os.getpid()}}>", flush=True)
        for step in range(10**9):
            if step == 50 and world.rank == 1:
                {end}
            world.transport.sum(x)
    """)
    assert done.code not in (None, 0) or end == "os._exit(0)", done
    pids = re.findall(r"<(\d+)>", done.out)
    assert len(pids) == 3
    assert not [name for name in leftovers() if name.name.split("-")[1] in pids]


def test_the_others_learn_that_a_rank_has_left(mpirun):
    """Where no launcher ends them, they see it while its process still lives, and may end in order."""
    done = mpirun(3, """
        import pathlib, time, pyddl
        t = pyddl.world().transport
        learnt = [pathlib.Path(__file__).with_name(f"learnt {rank}") for rank in range(2)]
        t.barrier()
        if t.rank == 2:
            t.leave()
            while not all(file.exists() for file in learnt):
                time.sleep(0.01)
        else:
            try:
                t.barrier()
            except pyddl.errors.CommError as error:
                print(error, flush=True)
            learnt[t.rank].touch()
        from mpi4py import MPI
        MPI.COMM_WORLD.Barrier()
    """)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 2
    assert any("rank 2 of this node has ended, while others wait for it" in line for line in lines)


@pytest.mark.parametrize(("first", "second", "said"), [
    ("t.sum(x)", "t.barrier()", "calls sum of 2000 elements"),
    ("t.sum(x)", "t.sum(x[:1999])", "1999 elements"),
    ("t.sum(x)", "t.sum(np.ones(2000, np.float32))", "of private memory"),
    ("t.sum(x)", "t.sum(y)", "of vector 2"),
    ("t.sum_to_owners(x)", "t.gather_from_owners(x)", "calls gather from owners of 2000 elements of vector 1"),
    ("t.gather_objects(1)", "t.gather(np.ones(1))", "calls gather_objects"),
    ("t.allocate(10)", "t.allocate(20)", "calls allocate of 20 elements"),
])
def test_different_calls_are_refused_on_every_rank(mpirun, first, second, said):
    done = mpirun(2, f"""
        import numpy as np, pyddl
        t = pyddl.world().transport
        x, y = t.allocate(2000), t.allocate(2000)
        try:
            {first} if t.rank == 0 else {second}
        except pyddl.errors.CommError as error:
            print(error)
        t.barrier()
    """)
    assert done.code == 0, done.err
    assert done.out.count("all ranks must call the same operations in the same order") == 2, done.out
    assert said in done.out


def test_signals_are_handled_while_waiting(mpirun):
    done = mpirun(2, """
        import pathlib, signal, time, pyddl
        t = pyddl.world().transport
        handled = pathlib.Path(__file__).with_name("handled")
        t.barrier()
        if t.rank == 0:
            def stop(*_): raise KeyError("asked to stop")
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            try:
                t.barrier()
            except KeyError as error:
                print(error, flush=True)
            handled.touch()
        else:
            while not handled.exists():  # this rank does not come to the barrier before
                time.sleep(0.01)
        from mpi4py import MPI
        MPI.COMM_WORLD.Barrier()
    """)
    assert done.code == 0, done.err
    assert "'asked to stop'" in done.out


@pytest.mark.parametrize("refused", ["limit(0, FILE_SIZE, 30_000)", "limit(1, OPEN_FILES, 0)",
                                     "shared.memory_available = lambda: 39_999"])
def test_refused_space_means_private_memory_and_the_same_sums(mpirun, refused):
    """Limits stand for a full /dev/shm: for the rank that creates the object, and for one that joins."""
    done = mpirun(2, f"""
        import logging, os, pyddl
        from resource import RLIM_INFINITY, RLIMIT_FSIZE as FILE_SIZE, RLIMIT_NOFILE as OPEN_FILES, setrlimit
        from pyddl.comm import shared
        logging.basicConfig(format="%(message)s")
        t = pyddl.world().transport
        def limit(rank, what, most):
            if t.rank == rank:
                setrlimit(what, (most, RLIM_INFINITY if what == FILE_SIZE else 1000))
        {refused}
        x = t.allocate(5000, "gradients")
        setrlimit(FILE_SIZE, (RLIM_INFINITY, RLIM_INFINITY))
        setrlimit(OPEN_FILES, (1000, 1000))
        x[:] = t.rank + 1
        t.sum(x)
        print(f"{{(x == 3).all()}} {{t.is_shared(x)}} <{{os.getpid()}}>")
    """)
    assert done.code == 0, done.err
    assert done.out.count("True False") == 2, done.out
    assert done.err.count("gradients: no shared memory for 20000 bytes (node 0: ") == 1, done.err
    assert not [name for name in leftovers() if f"<{name.name.split('-')[1]}>" in done.out]


@pytest.mark.parametrize("refused", [False, True])
def test_without_shared_memory_mpi_does_it_all(mpirun, refused):
    done = mpirun(2, f"""
        import logging, numpy as np, pyddl
        logging.basicConfig(format="%(message)s")
        if {refused}:
            from mpi4py import MPI
            from pyddl.comm import _mpi
            def refuse(*place): raise pyddl.errors.CommError("no such thing here")
            _mpi.SharedChannel = refuse
        t = pyddl.world().transport
        x = t.allocate(5000)
        x[:] = t.rank + 1
        t.sum(x)
        print(f"{{(x == 3).all()}} {{t.kind}}")
    """, environ=None if refused else {"PYDDL_SHARED_MEMORY": "0"})
    assert done.code == 0, done.err
    assert done.out.count("True MPI") == 2
    assert done.err.count("shared memory was refused (node 0: no such thing here)") == refused
