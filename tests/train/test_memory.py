"""Memory of a rank: vectors or its share of them, activations of its rows, libraries, and little else."""

import json
import os

import pytest

SCRIPT = """
import json, os, sys
import pyddl, pyddl.train.trainer, pyddl.models.autoencoder
from pyddl import _core
from pyddl.data import load

def private_bytes():
    fields = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if ":" in line and "kB" in line)
    return 1024 * sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))

world = pyddl.world()
_core.product_peak("float32", 0.01)  # oneDNN's code and tables count as libraries
before = private_bytes()
model = pyddl.models.Autoencoder(784, hidden=(1000, 500, 250, 30))
data = load(sys.argv[1])
trainer = pyddl.train.Trainer(model, epochs=1, batch_size=512, strategy="allreduce")
result = trainer.fit(data, load("random:500x784"))
vectors = 4 * 4 * model.layout.size  # parameters, gradients, two moments
activations = 4 * 2 * 256 * sum([784] + [s.shape[0] for s in model.layout if s.name.endswith("weight")])
report = {"grown": private_bytes() - before, "vectors": vectors, "activations": activations}
if world.rank == world.size - 1:
    print(json.dumps(report))
"""


@pytest.mark.parametrize("data", ["random:6000x784", "mnist"])
def test_private_pages_are_the_vectors_and_little_else(mpirun, data):
    from pyddl.data import find

    if data == "mnist" and find("mnist") is None:
        pytest.skip("no MNIST here")
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("this kernel does not say how much memory is private")
    spec = "mnist:test" if data == "mnist" else data  # 10000 images are enough to see a private copy of 8 MB
    done = mpirun(2, SCRIPT, spec, timeout=100)
    assert done.code == 0, done
    report = json.loads(done.out.splitlines()[-1])
    assert report["grown"] < report["vectors"] + report["activations"] + (64 << 20), report
    assert report["grown"] > report["vectors"] / 2, report  # the measure sees them


SHARES = """
import json, sys
import numpy as np
import pyddl
from pyddl.models import Autoencoder
from pyddl.train import Trainer
from pyddl.train.checkpoint import Checkpoints

def own_bytes():  # what is shared counts in parts
    world.transport.barrier()
    taken = next(1024 * int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:"))
    world.transport.barrier()
    return taken

def save(*arguments, before=Checkpoints.save, **keywords):
    seen.append(own_bytes())
    before(*arguments, **keywords)
    seen.append(own_bytes())

world, seen = pyddl.world(), []
Checkpoints.save = save
rows = np.random.default_rng(5).random((64, 2048), dtype=np.float32)
trainer = Trainer(Autoencoder(2048, hidden=(3000, 8)), batch_size=32, epochs=1, out=sys.argv[1],
                  shard_optimizer=sys.argv[2] == "shares")
result = trainer.fit(rows)
seen.append(own_bytes())
print(json.dumps({"seen": seen, "vector": result.parameters.nbytes}), flush=True)
"""


def test_sharded_state_is_whole_nowhere_also_at_a_checkpoint_and_at_the_end(mpirun, tmp_path):
    """Adam keeps two vectors, of which a rank of four has a quarter."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("this kernel does not say how much memory is shared")
    reports = {}
    for state in ("whole", "shares"):
        done = mpirun(4, SHARES, str(tmp_path / state), state, timeout=100)
        assert done.code == 0, done
        reports[state] = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
        assert len(reports[state]) == 4
    vector = reports["whole"][0]["vector"]
    for moment in range(3):
        least, most = (choose(each["seen"][moment] for each in reports[state])
                       for choose, state in ((min, "whole"), (max, "shares")))
        assert least - most > vector, (moment, reports)
