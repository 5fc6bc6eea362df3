"""Operations between ranks, on any number of ranks, 1 included."""

import numpy as np
import pytest
from support import assert_on_all_ranks

from pyddl.comm import Alone
from pyddl.errors import CommError, ShapeError

LENGTHS = [0, 1, 7, 1000, 4097, 100_003]


def part(rank, n):
    """Values of one rank: sums of them round, so that the order of addition shows."""
    return np.random.default_rng([rank, n]).standard_normal(n).astype(np.float32)


def tree_sum(parts):
    """((0+1)+(2+3))+((4+5)+(6+7)): the order that ``ordered`` promises."""
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@pytest.mark.mpi
@pytest.mark.parametrize("n", LENGTHS)
def test_sum_is_the_sum_on_every_rank(world, n):
    x = part(world.rank, n)
    count = world.transport.sum(x, count=world.rank + 1)
    expected = np.sum([part(rank, n).astype(np.float64) for rank in range(world.size)], axis=0)
    assert_on_all_ranks(world, count == world.size * (world.size + 1) // 2, count)
    assert_on_all_ranks(world, np.allclose(x, expected, rtol=1e-5, atol=1e-5), x[:4])


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_long_sum_by_mpi_takes_little_memory_besides(mpirun, ranks):
    """Open MPI's scratch memory is half of what it sums at once."""
    done = mpirun(ranks, """
        import numpy as np, pyddl
        transport = pyddl.world().transport
        def kilobytes(field):
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith(field))
        n = 30_000_003  # 120 MB
        x = np.arange(n, dtype=np.float32)
        x[-1] = 7
        transport.sum(x[:100_000])
        before = kilobytes("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
        transport.sum(x)
        more = kilobytes("VmHWM") - before
        assert more < 32 << 10, more
        P = transport.size
        assert np.array_equal(x[100_000:-1], P * np.arange(100_000, n - 1, dtype=np.float32))
        assert x[-1] == 7 * P and transport.kind == "MPI"
        print("little")
    """, environ={"PYDDL_RANKS_PER_NODE": "1"})
    assert done.out.count("little") == ranks, done


@pytest.mark.mpi
@pytest.mark.parametrize("n", [*LENGTHS, (1 << 20) + 5])
def test_ordered_sum_has_the_bits_of_the_binary_tree(world, n):
    x = part(world.rank, n)
    if world.size & (world.size - 1):
        with pytest.raises(CommError, match=f"got {world.size}"):
            world.transport.sum(x, ordered=True)
        return
    world.transport.sum(x, ordered=True)
    expected = tree_sum([part(rank, n) for rank in range(world.size)])
    assert_on_all_ranks(world, np.array_equal(x, expected), x[:4])


@pytest.mark.mpi
def test_sum_of_a_slice_leaves_the_rest_alone(world):
    x = np.ones(100, dtype=np.float32)
    world.transport.sum(x[10:20])
    expected = np.ones(100)
    expected[10:20] = world.size
    assert_on_all_ranks(world, np.array_equal(x, expected), x)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((2, 2), np.float32), np.zeros(8, np.float32)[::2],
                                    np.frombuffer(bytes(8), np.float32), [1.0]])
def test_sum_refuses_what_it_cannot_sum_in_place(world, vector):
    with pytest.raises(ShapeError, match="contiguous, writable float32"):
        world.transport.sum(vector)


@pytest.mark.mpi
def test_gather_keeps_lengths_and_rank_order(world):
    parts = world.transport.gather(np.arange(world.rank, dtype=np.float64) + world.rank / 8)
    expected = [np.arange(rank) + rank / 8 for rank in range(world.size)]
    same = len(parts) == world.size and all(map(np.array_equal, parts, expected))
    assert_on_all_ranks(world, same, parts)


@pytest.mark.mpi
def test_gather_objects(world):
    values = world.transport.gather_objects({"rank": world.rank, "name": "x" * world.rank})
    expected = [{"rank": rank, "name": "x" * rank} for rank in range(world.size)]
    assert_on_all_ranks(world, values == expected, values)


@pytest.mark.mpi
@pytest.mark.parametrize("n", LENGTHS)
def test_broadcast_from_every_root(world, n):
    for root in range(world.size):
        x = part(world.rank, n)
        world.transport.broadcast(x, root)
        assert_on_all_ranks(world, np.array_equal(x, part(root, n)), x[:4])


@pytest.mark.mpi
@pytest.mark.parametrize("array", [np.array(3), np.arange(6, dtype=np.uint8).reshape(2, 3),
                                   np.asfortranarray(np.arange(6.0).reshape(2, 3))])
def test_broadcast_of_any_shape_and_dtype(world, array):
    x = array.copy(order="K")
    x += x.dtype.type(world.rank)
    world.transport.broadcast(x)
    assert_on_all_ranks(world, np.array_equal(x, array), x)


@pytest.mark.mpi
def test_broadcast_refuses_an_unknown_root(world):
    with pytest.raises(CommError, match=f"expected 0 to {world.size - 1}"):
        world.transport.broadcast(np.zeros(1), root=world.size)


@pytest.mark.mpi(min_size=2)
def test_time_and_bytes_add_up(world):
    transport = world.transport
    sent, seconds = transport.bytes_sent, transport.communication_seconds
    transport.barrier()
    transport.sum(np.zeros(1000, dtype=np.float32))
    assert_on_all_ranks(world, transport.bytes_sent - sent == 2 * (world.size - 1) * 4000 // world.size)
    assert_on_all_ranks(world, transport.communication_seconds > seconds and transport.wait_seconds > 0)


def test_alone_sends_nothing():
    transport = Alone()
    x = np.arange(3, dtype=np.float32)
    assert transport.sum(x, count=5, ordered=True) == 5
    transport.broadcast(x)
    transport.barrier()
    np.testing.assert_array_equal(x, [0, 1, 2])
    assert transport.gather_objects("x") == ["x"]
    assert [part.tolist() for part in transport.gather(np.ones(2))] == [[1, 1]]
    assert transport.bytes_sent == 0
