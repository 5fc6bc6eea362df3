"""PyTorch modules on several ranks, under every strategy."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from support import assert_on_all_ranks, from_here_on_alone, python, run_ranks  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import pyddl  # noqa: E402
from pyddl.data import ArraySource  # noqa: E402
from pyddl.errors import ParameterError  # noqa: E402
from pyddl.models import Torch  # noqa: E402
from pyddl.train import Trainer, load_run  # noqa: E402

FILE = Path(__file__).with_name("torch_modules.py")
sys.path.append(str(FILE.parent))
from torch_modules import Coder  # noqa: E402

ROWS = np.random.default_rng(0).random((64, 6), dtype=np.float32)
LABELS = np.arange(64) % 3
STRATEGIES = {
    "allreduce": {}, "shards": {"shard_optimizer": True}, "averaging": {"strategy": "averaging", "period": 2},
    "diloco": {"strategy": "averaging", "period": 2, "outer": "nesterov"},
    "elastic": {"strategy": "elastic", "tau": 2}, "gossip": {"strategy": "gossip"}, "local": {"strategy": "local"},
    "sequential": {"strategy": "sequential", "replicas": 3}, "server": {"strategy": "server"},
    "async": {"strategy": "server", "mode": "async"}, "auto": {"strategy": "auto"}}


def coder():
    torch.manual_seed(1)
    return Coder(6)


def train(model, data=ROWS, **options):
    return Trainer(model, **{"batch_size": 13, "epochs": 2, "seed": 3, "learning_rate": 0.01, **options}).fit(data)


class Noisy(Coder):
    def loss(self, batch):
        rows = batch.rows + 0.1 * batch.normal(6)
        return {"loss": F.mse_loss(self(rows), batch.rows, reduction="sum"), "noise": rows.sum()}


@pytest.mark.mpi(min_size=2)
def test_ranks_do_what_one_process_does(world, monkeypatch):
    torch.manual_seed(1)
    module = Noisy(6)
    together = train(Torch(copy.deepcopy(module)))
    from_here_on_alone(monkeypatch)
    alone = train(Torch(module))
    np.testing.assert_allclose(together.parameters, alone.parameters, rtol=1e-3, atol=1e-5)
    for name in ("train_loss", "train_noise"):
        assert together.metrics[-1][name] == pytest.approx(alone.metrics[-1][name], rel=1e-5)


NODES = """
import numpy as np
import torch

import pyddl

torch.manual_seed(1)
module = torch.nn.Sequential(*(torch.nn.Linear(300, 300) for _ in range(4)))
model = pyddl.models.Torch(module, lambda module, batch: (module(batch.rows) - batch.rows).square().sum())
seen = []
gradient = model.gradient
model.gradient = lambda *given: seen.append(given[3].ready is not None) or gradient(*given)
rows = np.random.default_rng(0).random((7, 300), dtype=np.float32)
result = pyddl.train.Trainer(model, batch_size=2, epochs=2, threads=1).fit(rows)
sums = pyddl.world().transport.gather_objects((float(np.abs(result.parameters).sum()), all(seen)))
if pyddl.world().rank == 0:
    print(*(each for pair in sums for each in pair))
"""


def test_gradients_travel_between_nodes_while_they_come(mpirun):
    apart, together = (mpirun(2, NODES, environ={"PYDDL_RANKS_PER_NODE": each}) for each in ("1", "2"))
    assert apart.code == together.code == 0, apart.err + together.err
    one, announced, other, _ = apart.out.split()
    assert one == other and announced == "True" and together.out.split()[1] == "False"
    assert float(one) == pytest.approx(float(together.out.split()[0]), rel=1e-6)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", STRATEGIES.values(), ids=STRATEGIES)
def test_every_strategy_trains_and_leaves_the_module_with_its_values(world, shared, options):
    if options.get("mode") == "async" and world.size < 2:
        pytest.skip("needs a worker besides the server")
    module = coder()
    result = train(Torch(module), epochs=3, out=str(shared / "run"), **options)
    views = result.model.layout.views(result.averaged)
    own = {name: each.detach().numpy() for name, each in module.named_parameters()}
    assert_on_all_ranks(world, all(np.array_equal(views[name], each) for name, each in own.items()), "other values")
    assert_on_all_ranks(world, not any(np.shares_memory(each, result.parameters) for each in own.values()), "shared")
    if world.rank == 0:
        losses = [line["train_loss"] for line in result.metrics]
        assert losses[-1] < losses[0]
        coder().load_state_dict(load_file(shared / "run/model.safetensors"), strict=True)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["allreduce", "averaging", "sequential", "server"])
def test_a_resumed_run_is_the_uninterrupted_one(world, shared, name):
    def model():
        torch.manual_seed(1)
        return Torch(nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.2), nn.BatchNorm1d(12), nn.Linear(12, 6)),
                     lambda module, batch: F.mse_loss(module(batch.rows), batch.rows, reduction="sum"))

    options = {"batch_size": 32, **STRATEGIES[name]}
    whole = train(model(), epochs=3, out=str(shared / "whole"), **options)  # which merges buffers after each epoch
    train(model(), epochs=1, out=str(shared / "run"), **options)
    resumed = train(model(), epochs=3, out=str(shared / "run"), resume=True, **options)
    assert np.array_equal(resumed.parameters, whole.parameters) and np.array_equal(resumed.buffers, whole.buffers)


@pytest.mark.mpi(min_size=2)
def test_buffers_of_batch_norm_are_merged(world, shared):
    data = ArraySource(ROWS, labels=LABELS)
    model = Torch(f"{FILE}:make_classes", inputs=6)
    result = train(model, data, epochs=1, batch_size=64, out=str(shared / "run"))
    mean = result.model.buffers.views(result.buffers)["stack.1.running_mean"]
    gathered = world.transport.gather_objects(mean.tolist())
    assert all(each == gathered[0] for each in gathered)
    first = model.layout.zeros()
    model.initialise(first, model.buffers.zeros(), 3, None)
    views = model.layout.views(first)
    expected = 0.1 * (ROWS @ views["stack.0.weight"].T + views["stack.0.bias"]).mean(axis=0)  # momentum of one step
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-6)
    if world.rank == 0:
        state = load_file(shared / "run/model.safetensors")
        assert state["stack.1.num_batches_tracked"] == 1 and load_run(shared / "run").model.buffers == model.buffers


@pytest.mark.mpi(min_size=2)
def test_two_phases_train_on_ranks_as_on_one(world, monkeypatch):
    together = train(Torch(f"{FILE}:make_pair", inputs=6), batch_size=16)
    from_here_on_alone(monkeypatch)
    alone = train(Torch(f"{FILE}:make_pair", inputs=6), batch_size=16)
    np.testing.assert_allclose(together.averaged, alone.averaged, rtol=1e-3, atol=1e-5)
    assert together.metrics[-1]["train_right"] == pytest.approx(alone.metrics[-1]["train_right"], rel=0.05)


@pytest.mark.mpi(min_size=2)
def test_unlike_modules_on_the_ranks_are_refused(world):
    with pytest.raises(ParameterError, match="options differ between the ranks: tensors is"):
        train(Torch(Coder(6, width=3 + world.rank)))
    square = nn.Sequential(nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 2, 2, padding=1), nn.Flatten(0))
    if world.rank:
        square = square.to(memory_format=torch.channels_last)
    with pytest.raises(ParameterError, match="options differ between the ranks: order is"):
        train(Torch(square, lambda module, batch: module(batch.rows).square().sum()))


@pytest.mark.mpi(min_size=2)
def test_the_module_works_after_its_ranks_have_parted(world):
    module = coder()
    ranks = world.mpi.Dup()
    try:
        with pyddl.use(ranks):
            train(Torch(module))
    finally:
        ranks.Free()
    rule = torch.optim.SGD(module.parameters(), 0.01)
    loss = F.mse_loss(module(torch.from_numpy(ROWS)), torch.from_numpy(ROWS))
    loss.backward()
    rule.step()
    assert torch.isfinite(loss)


# ---- mistakes, as the command line says them

FAULTS = {
    "at once": ("import torch\nraise KeyError('first')", "cannot be run: KeyError: 'first', in line 2"),
    "when made": ("def make_model(inputs):\n    return [][inputs]", "cannot be made: IndexError: list index out of"),
    "in a step": ("from torch import nn\nclass M(nn.Linear):\n    def loss(self, batch):\n"
                  "        if batch.step == 2 and self.training:\n            raise ValueError('third')\n"
                  "        return self(batch.rows).sum()\ndef make_model(inputs):\n    return M(inputs, 1)",
                  "the module's loss raised ValueError: third, in line 5 of net.py")}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_file_raises_is_said_once(tmp_path, monkeypatch, fault):
    source, said = FAULTS[fault]
    (tmp_path / "net.py").write_text(source)
    (tmp_path / "main.py").write_text("import pyddl.cli\npyddl.cli.main()\n")
    monkeypatch.chdir(tmp_path)
    done = run_ranks(2, python(tmp_path / "main.py", "train", "torch", "--module", "net.py:make_model", "--epochs", "1",
                               "--data", "random:600x5", "--out", "run"))
    assert done.code == 2, done
    assert done.err.count("Traceback (most recent call last)") == 1 and done.err.count("\npyddl: ") == 1
    assert said in done.err and "net.py\", line" in done.err
