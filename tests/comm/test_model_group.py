"""Model groups: columns of matrices between ranks, in shared memory and by messages, on any number of them."""

import numpy as np
import pytest
from support import assert_on_all_ranks

from pyddl.comm.checked import Checked
from pyddl.comm.model_group import ModelGroup, SharedModelGroup, model_group
from pyddl.comm.world import part
from pyddl.errors import CommError

pytestmark = pytest.mark.mpi(min_size=2)


def uneven(size, columns):
    """Cuts of which the first is the widest."""
    return [0, *(columns - (size - k) for k in range(1, size)), columns]


@pytest.fixture(params=["chosen", "messages", "refused"])
def group(request, world, monkeypatch):
    if request.param == "messages":
        return ModelGroup(world, world.transport)
    found = model_group(world)
    if request.param == "refused":
        if not isinstance(found, SharedModelGroup):
            pytest.skip("there is no shared memory to be refused")
        monkeypatch.setattr(world.transport, "allocate_in_sight", lambda size, name: None)
    return found


@pytest.mark.parametrize("rows", [0, 1, 7, 200, 3])
def test_columns_are_gathered_and_summed(world, group, rows):
    columns = 13 + world.size
    cuts = uneven(world.size, columns)
    rng = np.random.default_rng(rows)
    for turn in range(5):  # more than the halves of memory, so that a hasty writer would show
        whole = rng.random((rows, columns), dtype=np.float32) + turn
        first, end = cuts[world.rank : world.rank + 2]
        out = np.full_like(whole, np.nan)
        group.gather_columns(np.ascontiguousarray(whole[:, first:end]), cuts, out)
        assert_on_all_ranks(world, np.array_equal(out, whole))

        of_ranks = [whole * (1 + rank) for rank in range(world.size)]
        room = group.room(rows, columns)
        room[...] = of_ranks[world.rank]
        mine = np.full((rows, end - first), np.nan, dtype=np.float32)
        group.sum_columns(room, cuts, mine)
        wanted = of_ranks[0]
        for each in of_ranks[1:]:
            wanted = wanted + each
        assert_on_all_ranks(world, np.array_equal(mine, wanted[:, first:end]))


def test_gathers_in_a_row_do_not_overtake_each_other(world, group):
    cuts = list(range(0, 4 * world.size + 1, 4))
    out = np.empty((50, cuts[-1]), dtype=np.float32)
    for turn in range(200):
        group.gather_columns(np.full((50, 4), turn + 1000 * world.rank, np.float32), cuts, out)
        wanted = np.repeat(turn + 1000 * np.arange(world.size), 4)
        assert (out == wanted).all()


def test_bytes_are_counted_by_the_algorithm(world, group):
    size = world.size
    before = group.bytes_sent
    cuts = list(range(0, 8 * size + 1, 8))
    group.gather_columns(np.zeros((10, 8), np.float32), cuts, np.empty((10, 8 * size), np.float32))
    assert group.bytes_sent - before == 4 * 10 * 8 * (size - 1)
    group.sum_columns(group.room(10, 8 * size), cuts, np.empty((10, 8), np.float32))
    assert group.bytes_sent - before == 2 * 4 * 10 * 8 * (size - 1)
    assert group.communication_seconds > 0


def test_numbers_and_flags_are_equal_on_all_ranks(world, group):
    total = group.total(0.1 * (world.rank + 1))
    assert all(each[0] == total for each in world.transport.gather(np.array([total])))
    assert total == pytest.approx(0.1 * world.size * (world.size + 1) / 2)
    assert not group.any(False)
    assert group.any(world.rank == world.size - 1)


def test_debug_mode_names_ranks_that_do_something_else(world):
    group = model_group(world, Checked(world.transport))
    cuts = list(range(world.size + 1))
    rows = 3 if world.rank == 0 else 4
    with pytest.raises(CommError, match=r"rank 0: gather of columns of 3x.*: gather of columns of 4x"):
        group.gather_columns(np.zeros((rows, 1), np.float32), cuts, np.empty((rows, world.size), np.float32))


def test_parts_of_a_world_keep_its_nodes(world):
    with part(world, world.rank % 2) as half:
        assert half.size == (world.size + 1 - world.rank % 2) // 2
        assert half.rank == world.rank // 2
        assert half.nodes <= world.nodes
        x = np.array([1.0 + world.rank], dtype=np.float32)
        half.transport.sum(x)
        assert x[0] == sum(1 + rank for rank in range(world.rank % 2, world.size, 2))
