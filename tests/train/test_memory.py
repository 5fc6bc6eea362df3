"""Memory of a rank: vectors, activations of its share of the batch, libraries, and little else."""

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
