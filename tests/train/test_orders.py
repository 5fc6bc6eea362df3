"""Slices whose axes lie in another order: files hold tensors as they are read, whatever lies where in the vector."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from pyddl.layout import Layout, Slice
from pyddl.train import Trainer

ROWS = np.random.default_rng(2).random((24, 3), dtype=np.float32)


class Matrix:
    """Least squares of the rows by themselves; its matrix lies by rows or by columns."""

    def __init__(self, order=None):
        self.aliases = {"again": "weight"}
        self.layout = Layout([Slice("weight", (2, 3), order=order)])
        self.buffers = Layout()

    def initialise(self, parameters, buffers, seed, data):
        self.layout.views(parameters)["weight"][:] = np.arange(6).reshape(2, 3) / 6

    def gradient(self, parameters, gradients, buffers, batch):
        weight, out = (self.layout.views(vector)["weight"] for vector in (parameters, gradients))
        error = batch.rows @ weight.T @ weight - batch.rows
        out[:] = 2 * (weight @ error.T @ batch.rows + weight @ batch.rows.T @ error)
        return float(np.square(error).sum())


def train(model, **options):
    return Trainer(model, **{"batch_size": 6, "epochs": 2, "seed": 1, **options}).fit(ROWS)


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}], ids=["whole", "shards"])
def test_files_do_not_depend_on_the_order(world, shared, options):
    for name, order in (("rows", None), ("columns", (1, 0))):
        train(Matrix(order), out=str(shared / name), **options)
    if world.rank == 0:
        rows, columns = (load_file(shared / name / "model.safetensors") for name in ("rows", "columns"))
        assert rows["weight"].shape == (2, 3) and set(rows) == {"weight", "again"}
        for name in rows:
            np.testing.assert_allclose(rows[name], columns[name], rtol=1e-5)
    world.transport.barrier()
    resumed = train(Matrix((1, 0)), out=str(shared / "rows"), epochs=3, resume=True, **options)
    whole = train(Matrix((1, 0)), epochs=3, **options)
    np.testing.assert_allclose(resumed.parameters, whole.parameters, rtol=1e-5)
