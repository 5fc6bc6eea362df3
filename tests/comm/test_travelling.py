"""Sums whose slices travel as they become final: ranks on nodes of their own, and several to a node."""

import numpy as np
import pytest

from pyddl.comm import Alone

SCRIPT = """
import sys
import numpy as np
import pyddl.comm

per_node, shared = int(sys.argv[1]), sys.argv[2] == "shared"
world = pyddl.comm.world()
assert world.nodes == -(-world.size // per_node)
transport = world.transport
if not shared:
    from pyddl.comm.transport import MPITransport
    transport = MPITransport(world.mpi)
N = 300_007
SLICES = [(0, 100), (112, 90_000), (90_000, 230_000), (230_016, N)]

def part(rank, step):
    x = np.zeros(N, np.float32)
    for begin, end in SLICES:
        x[begin:end] = np.random.default_rng([rank, step]).standard_normal(N)[begin:end]
    return x

vector = transport.allocate(N)
ready = transport.travelling(vector, SLICES)
ORDERS = [SLICES[::-1], SLICES, [(150_000, N), (95_000, 150_000), (0, 95_000)], SLICES[:1], []]
for step, order in enumerate(ORDERS * 2):
    small = np.full(3, world.rank, np.float32)
    vector[:] = part(world.rank, step)
    for begin, end in order:
        ready(begin, end)
        transport.sum(small)  # statistics of the whole batch travel between
        small[:] = world.rank
    sent = transport.bytes_sent
    count = transport.sum(vector, world.rank + 1)
    assert count == world.size * (world.size + 1) // 2, count
    assert transport.bytes_sent - sent == 2 * (world.size - 1) * 4 * N // world.size
    expected = np.sum([part(rank, step).astype(np.float64) for rank in range(world.size)], axis=0)
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-5)
    everywhere = transport.gather(vector[::977].astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)
    assert ready.early == [5, 5, 5, 0, 0][step % 5], ready.early
    plain = part(world.rank, step)
    transport.sum(plain)  # unannounced, elsewhere: the plain way
    np.testing.assert_allclose(plain, expected, rtol=1e-5, atol=1e-5)
assert transport.travelling(np.zeros(1000, np.float32), [(0, 1000)]) is None
try:
    ready(5, N + 1)
except Exception as error:
    assert f"within the {N} elements" in str(error), error
else:
    raise AssertionError("a range beyond the vector was taken")
print("right on", world.rank)
"""

TRAINING = """
import numpy as np
import pyddl.comm
from pyddl.models import Autoencoder
from pyddl.train import Trainer

world = pyddl.comm.world()
rows = np.random.default_rng(0).random((203, 200), dtype=np.float32)
model = Autoencoder(200, hidden=(300, 64))
announced = []
kind = type(world.transport)
travelling = kind.travelling

def spied(self, vector, slices):
    ready = travelling(self, vector, slices)
    def told(begin, end):
        announced.append((begin, end))
        ready(begin, end)
    return told

results = []
for way in (spied, lambda *given: None):
    kind.travelling = way
    results.append(Trainer(model, batch_size=64, epochs=2, seed=3, strategy="allreduce").fit(rows, rows))
steps = 2 * 4
covered = np.zeros(model.layout.size, int)
for begin, end in announced:
    covered[begin:end] += 1
for s in model.layout:
    assert (covered[s.begin : s.end] == steps).all(), s
early, late = results
np.testing.assert_allclose(early.parameters, late.parameters, rtol=1e-3, atol=2e-5)
assert abs(early.metrics[-1]["test_loss"] / late.metrics[-1]["test_loss"] - 1) < 1e-5
print("right on", world.rank)
"""

LONG = """
import resource
import numpy as np
import pyddl.comm

world = pyddl.comm.world()
transport, N = world.transport, 18_000_000
vector = transport.allocate(N)
ready = transport.travelling(vector, [(0, N)])
ramp = np.arange(N, dtype=np.float32) % 1000
peaks = []
for step in range(3):
    vector[:] = ramp
    vector += world.rank + step
    if step == 0:
        ramp.__mul__(2)  # as much as the arithmetic below takes
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    for end in range(N, 0, -1_000_000):
        ready(end - 1_000_000, end)
    assert transport.sum(vector, 1) == world.size
    vector -= world.size * ramp
    vector -= world.size * (world.size - 1) / 2 + step * world.size
    assert not vector.any(), np.flatnonzero(vector)[:5]
peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print("right on", world.rank, "MB more:", (peaks[1] - peaks[0]) / 1000, flush=True)
"""


@pytest.mark.parametrize(("ranks", "per_node", "transport"),
                         [(3, 1, "shared"), (4, 2, "shared"), (3, 3, "mpi")])
def test_what_travels_early_has_the_sum_of_what_waits(mpirun, ranks, per_node, transport):
    done = mpirun(ranks, SCRIPT, str(per_node), transport, environ={"PYDDL_RANKS_PER_NODE": str(per_node)})
    assert done.code == 0, done.err
    assert done.out.count("right on") == ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_training_is_the_same_and_announces_every_slice_once_a_step(mpirun, ranks):
    done = mpirun(ranks, TRAINING, environ={"PYDDL_RANKS_PER_NODE": "1"})
    assert done.code == 0, done.err
    assert done.out.count("right on") == ranks


def test_what_is_under_way_takes_little_memory(mpirun):
    done = mpirun(3, LONG, environ={"PYDDL_RANKS_PER_NODE": "1"})
    assert done.code == 0, done.err
    more = [float(line.split()[-1]) for line in done.out.splitlines() if line.startswith("right on")]
    assert len(more) == 3 and max(more) < 32, more  # of the vector's 72 MB


def test_nothing_travels_where_nothing_is_gained(mpirun):
    assert Alone().travelling(np.zeros(1 << 20, np.float32), [(0, 1 << 20)]) is None
    done = mpirun(2, """
        import pyddl.comm
        world = pyddl.comm.world()
        assert world.transport.travelling(world.transport.allocate(1 << 20), [(0, 1 << 20)]) is None
        print("right")
    """)
    assert (done.code, done.out.count("right")) == (0, 2), done.err
