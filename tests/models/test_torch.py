"""PyTorch modules as models: gradients and updates are PyTorch's own; which values they have; and what is refused."""

import copy
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import pyddl  # noqa: E402
from pyddl import _core  # noqa: E402
from pyddl.data import ArraySource  # noqa: E402
from pyddl.data.batch import Batch  # noqa: E402
from pyddl.errors import DataError, ParameterError  # noqa: E402
from pyddl.models import Phase, Stage, Torch  # noqa: E402
from pyddl.train import Trainer, load_run, simulate  # noqa: E402

FILE = Path(__file__).with_name("torch_modules.py")
sys.path.append(str(FILE.parent))
from torch_modules import Coder, Pair, play  # noqa: E402

ROWS = np.random.default_rng(0).random((60, 6), dtype=np.float32)
LABELS = np.arange(60) % 3


def squares(module, batch):
    return F.mse_loss(module(batch.rows), batch.rows, reduction="sum")


def linear(**options):
    return Torch(nn.Linear(6, 6), squares, **options)


def vectors(model, seed=0):
    parameters, gradients, buffers = model.layout.zeros(), model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, seed, None)
    return parameters, gradients, buffers


def train(model, rows=ROWS, **options):
    return Trainer(model, **{"batch_size": 12, "epochs": 2, "seed": 3, **options}).fit(rows)


# ---- gradients and updates

def test_gradients_are_those_of_pytorch_and_lie_in_the_vectors():
    module = Coder(6)
    plain = copy.deepcopy(module)
    model = Torch(module)
    parameters, gradients, buffers = vectors(model)
    gradients[:] = 7  # to be overwritten
    loss = model.gradient(parameters, gradients, buffers, Batch(ROWS[:9]))["loss"]
    expected = F.mse_loss(plain(torch.from_numpy(ROWS[:9])), torch.from_numpy(ROWS[:9]), reduction="sum")
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    views = model.layout.views(gradients)
    for name, each in plain.named_parameters():
        np.testing.assert_allclose(views[name], each.grad.numpy(), rtol=1e-5, atol=1e-6)
    for each in module.parameters():  # no copy: what moves one moves the other
        assert np.shares_memory(each.detach().numpy(), parameters) and np.shares_memory(each.grad.numpy(), gradients)
    parameters[:] = 2
    assert all((each == 2).all() for each in module.parameters())


def test_training_is_that_of_a_plain_loop():
    module = Coder(6)
    plain = copy.deepcopy(module)
    result = train(Torch(module), optimizer="sgd", learning_rate=0.05, batch_size=60, epochs=5)
    rule = torch.optim.SGD(plain.parameters(), 0.05)
    rows = torch.from_numpy(ROWS)
    for _ in range(5):
        rule.zero_grad()
        (F.mse_loss(plain(rows), rows, reduction="sum") / 60).backward()
        rule.step()
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):  # the module has the trained values
        torch.testing.assert_close(one, other)
    assert result.metrics[-1]["train_loss"] < result.metrics[0]["train_loss"]


def test_no_rows_give_no_gradient_and_do_not_call_the_module():
    model = Torch(nn.Linear(6, 6), lambda module, batch: 1 / 0)
    parameters, gradients, buffers = vectors(model)
    gradients[:] = 7
    assert model.gradient(parameters, gradients, buffers, Batch(ROWS[:0]))["loss"] == 0 and not gradients.any()


def test_vectors_may_alternate():
    model = linear()
    first, gradients, buffers = vectors(model)
    second, others = first + 1, model.layout.zeros()
    alone = [model.gradient(each, gradients, buffers, Batch(ROWS))["loss"] for each in (first, second)]
    in_turn = [model.gradient(*pair, buffers, Batch(ROWS))["loss"]
               for _ in range(2) for pair in ((first, gradients), (second, others))]
    assert in_turn == alone * 2 and alone[0] != alone[1] and not np.array_equal(gradients, others)


def test_old_vectors_are_not_kept():
    import weakref

    model = linear()
    known = []
    for _ in range(3):
        each = vectors(model)
        model.gradient(*each, Batch(ROWS))
        known.append(weakref.ref(each[0]))
    assert [ref() is None for ref in known[:2]] == [True, True]


def test_slices_are_named_as_in_the_state_dict():
    model = Torch(Coder(6))
    assert [s.name for s in model.layout][:2] == ["encoder.0.weight", "encoder.0.bias"]
    assert [s.decay for s in model.layout] == [True, False] * 4 and model.layout.groups == ("all",)
    assert model.layout.count == sum(each.numel() for each in model.module.parameters())


@pytest.mark.parametrize("rows", [0, 9])
def test_final_gradients_are_announced_last_slice_first(rows):
    module = Coder(6)
    module.spare = nn.Linear(2, 2)  # has no gradient
    model = Torch(module)
    parameters, gradients, buffers = vectors(model)
    seen = []
    model.gradient(parameters, gradients, buffers, Batch(
        ROWS[:rows], ready=lambda begin, end: seen.append((begin, end, gradients[begin:end].copy()))))
    assert [each[:2] for each in seen] == [(s.begin, s.end) for s in reversed(list(model.layout))]
    assert all(np.array_equal(then, gradients[begin:end]) for begin, end, then in seen)
    seen.clear()
    model.gradient(parameters, gradients, buffers, Batch(ROWS[:9]))
    assert not seen


def test_a_gradient_that_comes_twice_is_no_final_one():
    from torch.utils.checkpoint import checkpoint

    def loss(module, batch):
        rows = batch.rows.requires_grad_()
        return sum(checkpoint(module, rows, use_reentrant=True).square().sum() for _ in range(2))

    model = Torch(nn.Linear(6, 6), loss)
    model.gradient(*vectors(model), Batch(ROWS[:4]))
    with pytest.raises(ParameterError, match=r"bias has got a gradient twice in one pass backward.* use_reentrant=F"):
        model.gradient(*vectors(model), Batch(ROWS[:4], ready=lambda begin, end: None))


# ---- random numbers, and how a batch looks

def test_a_batch_has_tensors_and_numbers_of_its_rows():
    seen = []

    def loss(module, batch):
        seen.append((batch.rows.shape, batch.labels, batch.index, batch.seed, batch.step, batch.turn, batch.phase,
                     batch.total, len(batch), batch.normal(2), batch.normal(2, 3), batch.uniform(1)))
        return squares(module, batch)

    model = Torch(nn.Linear(6, 6), loss)
    batch = Batch(ROWS[:4], np.array([9, 8, 2, 5]), labels=np.arange(4, dtype=np.uint8), seed=3, step=7, total=8)
    model.gradient(*vectors(model), batch)
    model.gradient(*vectors(model), batch.part(2, 4))
    whole, part = seen
    assert whole[0] == (4, 6) and whole[3:9] == (3, 7, 0, "all", 8, 4)
    assert whole[1].dtype == torch.int64 and whole[1].tolist() == [0, 1, 2, 3] and whole[2].tolist() == [9, 8, 2, 5]
    for of_all, of_few in zip(whole[9:], part[9:], strict=True):  # keyed by the row's number, whatever is around it
        assert torch.equal(of_all[2:], of_few)
    assert whole[10].shape == (4, 2, 3) and not torch.equal(whole[9], whole[10].reshape(4, 6)[:, :2])
    assert len(torch.unique(whole[10])) == 24 and 0 <= whole[11].min() < whole[11].max() < 1


def test_pytorchs_generator_depends_on_the_turn_alone_and_is_given_back():
    drawn = []

    def loss(module, batch):
        drawn.append(torch.rand(3))
        return squares(module, batch)

    model = Torch(nn.Linear(6, 6), loss)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    mine = vectors(model)
    for step in (0, 1, 0):
        model.gradient(*mine, Batch(ROWS[:4], step=step))
    model.finish(mine[0], mine[2])
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.rand(1), expected)


def test_dropout_repeats_on_resume(tmp_path):
    def model():
        torch.manual_seed(1)
        return Torch(nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.Linear(16, 6)), squares)

    whole = train(model(), epochs=3)
    train(model(), epochs=1, out=str(tmp_path / "run"))
    resumed = train(model(), epochs=3, out=str(tmp_path / "run"), resume=True)
    assert np.array_equal(resumed.parameters, whole.parameters) and resumed.metrics[-1]["train_loss"] == \
        whole.metrics[-1]["train_loss"]


# ---- what makes a module

def test_seeds_begin_differently_and_alike():
    name = f"{FILE}:make_model"
    first, again, other = (vectors(Torch(name, inputs=6), seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(first, vectors(Torch(lambda: Coder(6)), 1)[0])
    assert np.array_equal(first, vectors(Torch(lambda: Torch(lambda: Coder(6))), 1)[0])


def test_a_module_begins_with_its_own_values_and_goes_on_with_those_of_training():
    module = nn.Linear(6, 6)
    model = Torch(module, squares)
    begin = model.layout.views(vectors(model)[0])["weight"]
    assert np.array_equal(begin, module.weight.detach().numpy())
    result = train(model)
    trained = model.layout.views(result.parameters)["weight"]
    assert np.array_equal(trained, module.weight.detach().numpy()) and not np.array_equal(trained, begin)
    assert not np.shares_memory(module.weight.detach().numpy(), result.parameters)
    assert module.weight.grad is None and module.weight.requires_grad and module.training
    assert np.array_equal(model.layout.views(vectors(model)[0])["weight"], trained)


def test_a_file_may_make_a_module_a_pair_or_a_whole_model(tmp_path):
    (tmp_path / "made.py").write_text(
        "import torch\nfrom torch import nn\nimport pyddl\n"
        "def of_pair(): return nn.Linear(6, 6), lambda module, batch: module(batch.rows).square().sum()\n"
        "def takes(inputs, arguments=1, **others): return of_pair()\n"
        "def nothing(): return 3\ndef raises(): return {}['width']\nNUMBER = 4\nready = nn.Linear(6, 6)\n")
    named = f"{tmp_path}/made.py:"
    assert Torch(named + "of_pair", inputs=6).layout.count == 42
    assert Torch(named + "takes", inputs=6, arguments={"more": 1}).options() == {
        "module": named + "takes", "arguments": {"more": 1}, "inputs": 6, "dtype": "float32"}
    assert [each.name for each in Torch(f"{FILE}:make_pair", inputs=6).stages[0].phases] == ["critic", "generator"]
    for member, said in {
            "nothing": "has made int; expected a torch.nn.Module",
            "raises": r"cannot be made: KeyError: 'width', in line 7 of",
            "of_pai": "has no of_pai; of functions .*did you mean 'of_pair'", "NUMBER": "NUMBER is no function",
            "ready": r"which is a module already; expected FILE\.py:make_model",
            "": "expected FILE.py:make_model, with the name of a function: .*has of_pair, takes"}.items():
        with pytest.raises(ParameterError, match=said):
            Torch(named + member)
    with pytest.raises(ParameterError, match="takes no argument 'widht'"):
        Torch(f"{FILE}:make_model", inputs=6, arguments={"widht": 4})
    with pytest.raises(ParameterError, match="and the module is made already"):
        Torch(nn.Linear(2, 2), squares, arguments={"width": 4})


@pytest.mark.parametrize(("given", "said"), [
    (3, "module is 3; expected a torch.nn.Module, a function that makes one, or FILE.py:make_model"),
    (None, r"module is missing: expected FILE\.py:make_model"),
    ("made", "module is 'made'; expected FILE.py:make_model: a Python file"),
    ("nowhere.py:make", "there is no file nowhere.py"), (nn.Linear(2, 2), "Linear comes without a loss"),
    (lambda: (nn.Identity(), squares), "the module has no parameters")])
def test_what_is_no_module_is_named(given, said):
    with pytest.raises(ParameterError, match=said):
        Torch(given)


def test_a_loss_that_is_a_module_is_no_loss():
    module = nn.Linear(2, 2)
    module.loss = nn.MSELoss()
    with pytest.raises(ParameterError, match="Linear comes without a loss"):
        Torch(module)
    for loss in (nn.MSELoss(), "mse"):
        with pytest.raises(ParameterError, match=r"loss is .*; expected a function of module and batch, such"):
            Torch(module, loss)


# ---- buffers

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.bool))

    def forward(self, rows):
        if self.training:
            self.scale = self.scale * 0.5  # another tensor in its place
            self.seen[0] = True
        return self.norm(rows)


def test_buffers_follow_the_module():
    model = Torch(Normed(), squares, merge={"*.running_*": "sum"})
    assert {s.name: (s.shape, s.merge) for s in model.buffers} == {
        "scale": ((), "mean"), "seen": ((3,), "max"), "norm.running_mean": ((6,), "sum"),
        "norm.running_var": ((6,), "sum"), "norm.num_batches_tracked": ((), "max")}
    parameters, gradients, buffers = vectors(model)
    plain = Normed()
    for number in range(3):
        part = ROWS[10 * number : 10 * number + 10]
        model.gradient(parameters, gradients, buffers, Batch(part))
        plain(torch.from_numpy(part))
    for name, value in model.buffers.views(buffers).items():
        np.testing.assert_allclose(value, plain.state_dict()[name].numpy(), rtol=1e-6, err_msg=name)
    before = buffers.copy()
    model.evaluate(parameters, buffers, Batch(ROWS))
    assert np.array_equal(buffers, before)


def test_the_file_of_a_run_loads_into_the_module(tmp_path):
    module, other = nn.Sequential(Normed(), nn.Linear(6, 6)), nn.Sequential(Normed(), nn.Linear(6, 6))
    train(Torch(module, squares), out=str(tmp_path / "run"))
    other.load_state_dict(load_file(tmp_path / "run/model.safetensors"), strict=True)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]) and value.dtype == other.state_dict()[name].dtype, name
    assert other.state_dict()["0.norm.num_batches_tracked"] == 10


def test_whole_numbers_are_exact_or_refused():
    module = nn.Linear(6, 6)
    module.register_buffer("count", torch.tensor(2**24 + 1))
    model = Torch(module, squares)
    with pytest.raises(ParameterError, match="buffer count holds whole numbers beyond 16777216"):
        vectors(model)
    module = nn.BatchNorm1d(6)
    module.num_batches_tracked += 2**24 + 5  # counts on without end, and matters to nobody then
    assert vectors(Torch(module, squares))[2].max() == 2**24


# ---- frozen, tied, in another order of axes

def test_what_requires_no_gradient_does_not_move():
    module = Coder(6)
    module.encoder[0].weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    model = Torch(module)
    assert model.layout.groups == ("all", "(frozen)")
    train(model, weight_decay=0.1)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(before) - {"encoder.0.weight"} and not module.encoder[0].weight.requires_grad
    with pytest.raises(ParameterError, match="no parameter of the module requires a gradient"):
        Torch(nn.Linear(2, 2).requires_grad_(False), squares)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.down.weight = self.up.weight

    def forward(self, rows):
        return self.down(torch.tanh(self.up(rows)))


def test_tied_parameters_are_one_slice_of_two_names(tmp_path):
    module = Tied()
    plain = copy.deepcopy(module)
    model = Torch(module, squares)
    assert model.layout.count == 42 and model.aliases == {"down.weight": "up.weight"}
    parameters, gradients, buffers = vectors(model)
    model.gradient(parameters, gradients, buffers, Batch(ROWS))
    squares(plain, Batch(torch.from_numpy(ROWS))).backward()
    np.testing.assert_allclose(model.layout.views(gradients)["up.weight"], plain.up.weight.grad.numpy(), rtol=1e-5)
    train(model, out=str(tmp_path / "run"))
    plain.load_state_dict(load_file(tmp_path / "run/model.safetensors"), strict=True)
    assert plain.down.weight is plain.up.weight and torch.equal(plain.up.weight, module.up.weight)


def test_memory_that_is_shared_without_being_tied_is_refused():
    module = Coder(6, width=8)
    module.decoder[0].weight.data = module.encoder[2].weight.data
    with pytest.raises(ParameterError, match="weight share memory and are two tensors"):
        Torch(module)


def pictures(module, batch):
    rows = batch.rows.reshape(-1, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    return module(rows).square().sum()


def test_channels_last_stays_and_files_have_the_usual_shape(tmp_path):
    rows = np.random.default_rng(1).random((24, 64), dtype=np.float32)
    made = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    results = []
    for last in (False, True):
        module = copy.deepcopy(made)
        if last:
            module = module.to(memory_format=torch.channels_last)
        model = Torch(module, pictures)
        assert model.layout["3.weight"].order == ((0, 2, 3, 1) if last else None)
        out = tmp_path / str(last)
        train(model, rows, batch_size=8, epochs=1, out=str(out))
        results.append(train(model, rows, batch_size=8, epochs=2, out=str(out), resume=True))
        weight = module[3].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
        copy.deepcopy(made).load_state_dict(load_file(out / "model.safetensors"), strict=True)
        np.testing.assert_array_equal(weight.detach().numpy(), load_file(out / "model.safetensors")["3.weight"])
    assert results[1].metrics[-1]["train_loss"] == pytest.approx(results[0].metrics[-1]["train_loss"], rel=1e-4)
    other = tmp_path / "False"  # goes on in the other order of axes
    resumed = train(Torch(copy.deepcopy(made).to(memory_format=torch.channels_last), pictures), rows, batch_size=8,
                    epochs=3, out=str(other), resume=True)
    assert len(resumed.metrics) == 3 and resumed.metrics[2]["train_loss"] < resumed.metrics[0]["train_loss"]


# ---- phases

def test_phases_train_their_own_and_keep_averages():
    pair = Pair(6)
    before = copy.deepcopy(pair.state_dict())
    model = Torch(pair, play, phases=[Phase("critic", ("critic",)), Phase("generator", ("generator",), every=2)])
    assert model.layout.groups == ("critic", "generator")  # in the order of their turns
    mine = vectors(model)
    for phase in ("critic", "generator"):
        model.gradient(*mine, Batch(ROWS, phase=phase))
        required = {name.split(".")[0] for name, each in pair.named_parameters() if each.requires_grad}
        found = {s.group for s in model.layout if model.layout.views(mine[1])[s.name].any()}
        assert required == {phase} and phase in found
    result = train(model, epochs=1)
    assert "train_right" in result.metrics[0] and not torch.equal(pair.critic[0].weight, before["critic.0.weight"])
    averaged = Torch(f"{FILE}:make_pair", inputs=6)
    result = train(averaged, epochs=3, validation=0.2)
    line = result.metrics[-1]
    assert line["test_loss"] == pytest.approx(line["test_loss_critic"] + line["test_loss_generator"])
    assert line["train_loss"] == pytest.approx(line["train_loss_critic"] + line["train_loss_generator"])
    weight = averaged.layout.views(result.averaged)["generator.0.weight"]
    assert not np.array_equal(weight, averaged.layout.views(result.parameters)["generator.0.weight"])
    assert np.array_equal(weight, averaged.module.generator[0].weight.detach().numpy())


def test_stages_and_parameters_of_no_phase():
    module = Coder(6)
    model = Torch(module, stages=[Stage([Phase("first", ("encoder.0", "decoder"))], epochs=1),
                                  Stage([Phase("last", ("decoder",))])])
    assert model.layout.groups == ("encoder.0", "decoder", "(frozen)")
    frozen = module.encoder[2].weight.detach().clone()
    result = train(model, epochs=1)
    assert [line["stage"] for line in result.metrics] == [1, 2] and torch.equal(module.encoder[2].weight, frozen)
    assert np.array_equal(model.layout.views(result.parameters)["encoder.2.weight"], frozen)
    for phases, said in (([Phase("a", ("encodr",))], "phases name 'encodr', and no .*did you mean 'encoder'"),
                         ([Phase("a", ("decoder", "encoder")), Phase("b", ("encoder",))], "both train group encoder")):
        with pytest.raises(ParameterError, match=said):
            train(Torch(Coder(6), phases=phases))
    with pytest.raises(ParameterError, match="phases and stages are both given"):
        Torch(Coder(6), phases=[Phase("a")], stages=[Stage([Phase("a")])])


def test_a_loss_may_differentiate():
    def slopes(module, batch):
        rows = batch.rows.clone().requires_grad_()
        slope, = torch.autograd.grad(module(rows).sum(), rows, create_graph=True)
        return slope.square().sum()

    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    result = train(Torch(module, slopes), validation=0.2, epochs=4)
    assert result.metrics[-1]["test_loss"] < result.metrics[0]["test_loss"]
    assert all(each.grad is None for each in module.parameters())


# ---- compiled, in bfloat16

@pytest.mark.timeout(300)
def test_compiled_modules_are_not_compiled_again_in_each_step(tmp_path):
    module = Coder(6)
    plain = train(Torch(copy.deepcopy(module)), epochs=3)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model = Torch(torch.compile(module), squares)
    assert [s.name for s in model.layout] == list(module.state_dict())
    parameters, gradients, buffers = vectors(model)
    others = [each.copy() for each in (parameters, gradients)]
    model.check_data(ArraySource(ROWS))
    assert counters["stats"]["unique_graphs"] == 0  # a few rows are not worth it
    for step in range(6):
        pair = (parameters, gradients) if step % 2 else others
        model.gradient(*pair, buffers, Batch(ROWS[:12], step=step))
    assert counters["stats"]["unique_graphs"] == 1
    result = train(model, epochs=3, out=str(tmp_path / "run"))
    assert result.metrics[-1]["train_loss"] == pytest.approx(plain.metrics[-1]["train_loss"], rel=1e-4)
    Coder(6).load_state_dict(load_file(tmp_path / "run/model.safetensors"), strict=True)


def test_bfloat16_is_autocast():
    seen = []

    def loss(module, batch):
        out = module(batch.rows)
        seen.append(out.dtype)
        return (out.float() - batch.rows).square().sum()

    def by_hand(module, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(module, batch)

    results = [train(Torch(nn.Linear(6, 6), each, dtype=dtype))
               for each, dtype in ((loss, "bfloat16"), (by_hand, "float32"))]
    assert set(seen) == {torch.bfloat16}
    assert all(each.metrics[-1]["train_loss"] < each.metrics[0]["train_loss"] for each in results)


def test_threads_are_the_ranks_and_given_back():
    before = torch.get_num_threads()
    seen = []
    model = Torch(nn.Linear(6, 6), lambda module, batch: seen.append(torch.get_num_threads()) or squares(module, batch))
    wanted = 3 if before != 3 else 2
    train(model, threads=wanted)
    _core.set_threads(1)
    assert seen[-1] == wanted and torch.get_num_threads() == before


# ---- refused

def no_graph(module, batch):
    with torch.no_grad():
        return squares(module, batch)


def moves(module, batch):
    out = squares(module, batch)
    module.weight.data = module.weight.data.clone()
    return out


def replaces(module, batch):
    module.weight = nn.Parameter(module.weight.detach() * 2)
    return squares(module, batch)


def drops(module, batch):
    module.zero_grad()
    return squares(module, batch)


@pytest.mark.parametrize("ready", [None, lambda begin, end: None])
def test_zero_grad_in_a_loss_does_no_harm(ready):
    torch.manual_seed(0)
    module = nn.Linear(6, 6)
    found = []
    for loss in (squares, drops):
        model = Torch(module, loss)
        mine = vectors(model)
        model.gradient(*mine, Batch(ROWS[:4], ready=ready))
        found.append(mine[1])
    assert np.array_equal(*found) and found[0].any()


def test_gradients_of_sparse_embeddings_arrive():
    module = nn.Embedding(5, 3, sparse=True)
    model = Torch(module, lambda module, batch: module(batch.index % 2).sum())
    _, gradients, _ = mine = vectors(model)
    model.gradient(*mine, Batch(ROWS[:4]))
    assert model.layout.views(gradients)["weight"].tolist() == [[2, 2, 2]] * 2 + [[0, 0, 0]] * 3


def steps(module, batch):
    torch.optim.SGD(module.parameters(), 0.1).step()
    return squares(module, batch)


def goes_back(module, batch, **keeps):
    loss = squares(module, batch)
    loss.backward(**keeps)
    return loss


@pytest.mark.parametrize(("loss", "said"), [
    (goes_back, "the module's loss makes a pass backward itself: leave loss.backward"),
    (lambda module, batch: goes_back(module, batch, retain_graph=True), "loss makes a pass backward itself"),
    (steps, "the module's loss makes a step of SGD: leave optimizers, zero_grad and backward out"),
    (no_graph, "the module's loss does not depend on any parameter that phase all trains"),
    (moves, "has moved parameter weight to other memory, which training does not see"),
    (replaces, "has put another one in the place of parameter weight, which training does not see"),
    (lambda module, batch: module(batch.rows), r"loss of the module's loss is a tensor of shape \(\d, 6\); expected a"),
    (lambda module, batch: 3.0, "the module's loss returned 3.0; expected a scalar tensor"),
    (lambda module, batch: None, "the module's loss returned None; expected a scalar tensor"),
    (lambda module, batch: {"error": module(batch.rows).sum()}, "returned the names error; expected a scalar"),
    (lambda module, batch: module(batch.rows[:, :3]).sum(),
     r"the module's loss raised RuntimeError: mat1 and mat2 .*, in line \d+ of .*test_torch.py"),
    (lambda module, batch: {"loss": module(batch.rows).sum(), "b": "x"}, "b of the module's loss is 'x'; expected a")])
def test_losses_that_are_none_are_refused_in_one_line(loss, said):
    with pytest.raises(ParameterError, match=said) as refused:
        train(Torch(nn.Linear(6, 6), loss))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("member", "said"), [
    ("encode", "give the module a method encode(rows), which returns a line of codes for each of them"),
    ("reconstruct", "give the module a method reconstruct(rows), which returns as many rows"),
    ("sample", "give the module a method sample(count), which returns so many rows")])
def test_what_a_module_lacks_is_said_with_what_to_define(tmp_path, member, said):
    from pyddl.cli.encode import able

    model = Torch(nn.Linear(6, 6), squares)
    assert not hasattr(model, member)
    run = SimpleNamespace(model=model, path=tmp_path, summary={"model": "torch"})
    with pytest.raises(DataError, match=f"the model in .*, torch, lacks it: {re.escape(said)}$"):
        able(run, member, "lacks it")
    with pytest.raises(AttributeError, match="no attribute 'enkode'"):
        _ = model.enkode


@pytest.mark.parametrize(("module", "said"), [
    (nn.Linear(2, 2).double(), "parameter weight is float64, and pyddl's vectors are float32: make it module.float"),
    (nn.Linear(2, 2).bfloat16(), "parameter weight is bfloat16"),
    (nn.LazyLinear(2), "parameter weight has no shape yet"),
    (nn.Linear(2, 2, device="meta"), "parameter weight is on meta; pyddl trains on CPUs")])
def test_parameters_are_float32_and_here(module, said):
    with pytest.raises(ParameterError, match=said):
        Torch(module, squares)


def test_labels_that_are_missing_are_named():
    model = Torch(f"{FILE}:make_classes", inputs=6)
    with pytest.raises(DataError, match="the module's loss asks for labels, and the rows have none: give them with"):
        train(model)
    assert train(model, ArraySource(ROWS, labels=LABELS)).metrics[-1]["train_accuracy"] <= 1


def test_memory_that_is_not_there_is_a_memory_error():
    with pytest.raises(MemoryError):
        train(Torch(nn.Linear(6, 6), lambda module, batch: torch.empty(1 << 50).sum()))


def test_a_mean_is_warned_of_once(caplog):
    def mean(module, batch):
        return F.mse_loss(module(batch.rows), batch.rows)

    result = train(Torch(nn.Linear(6, 6), mean))
    assert re.search("looks like a mean over the rows", result.metrics[0]["warnings"][0])
    assert "warnings" not in result.metrics[1] and "warnings" not in train(linear()).metrics[0]

    def share(module, batch):
        return {"loss": squares(module, batch), "norm": module.weight.norm() * len(batch), "share": batch.rows.mean()}

    (said,) = train(Torch(nn.Linear(6, 6), share)).metrics[0]["warnings"]
    assert said.startswith("share of the module's loss looks like a mean over the rows")


def test_a_compiled_module_whose_own_loss_is_not_is_warned_of():
    class Squares(nn.Linear):
        def loss(self, batch):
            return squares(self, batch)

    def warned(*given):
        return train(Torch(*given), epochs=1).metrics[0].get("warnings", [""])[0]

    with torch.compiler.set_stance("force_eager"):
        assert warned(torch.compile(Squares(6, 6))).startswith("torch.compile compiles what module(...) calls")
        assert not warned(torch.compile(Squares(6, 6)), squares) and not warned(Squares(6, 6))


# ---- afterwards

def test_a_run_is_read_again_and_serves(tmp_path):
    result = train(Torch(f"{FILE}:make_model", inputs=6, arguments={"width": 2}), out=str(tmp_path / "run"))
    run = load_run(tmp_path / "run")
    codes = run.model.encode(run.averaged, run.buffers, ROWS)
    assert codes.shape == (60, 2) and np.array_equal(run.parameters, result.parameters)
    assert run.model.reconstruct(run.averaged, run.buffers, ROWS).shape == (60, 6)
    one, again, other = (run.model.sample(run.averaged, run.buffers, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other) and one.shape == (3, 6)
    assert run.model.pictures(run.averaged, run.buffers, ROWS[:2])["weights"].shape == (4, 6)
    assert not hasattr(linear(), "encode") and not hasattr(linear(), "sample")


def test_a_module_of_python_cannot_be_read_again_and_the_message_says_how(tmp_path):
    train(linear(), out=str(tmp_path / "run"))
    with pytest.raises(DataError, match=r"module is missing: expected FILE\.py:make_model.*object of Python cannot"):
        load_run(tmp_path / "run")


def test_a_model_may_be_pickled(tmp_path):
    for model in (Torch(nn.Linear(6, 6), squares, merge={"a": "sum"}), Torch(f"{FILE}:make_pair", inputs=6)):
        train(model)
        again = pickle.loads(pickle.dumps(model))
        assert again.layout == model.layout and again.options() == model.options()
        assert np.array_equal(vectors(again)[0], vectors(model)[0])


def test_simulated_workers_train_it():
    model = Torch(f"{FILE}:make_model", inputs=6)
    for strategy in ("allreduce", "server"):
        found = simulate(model, ROWS, strategy=strategy, workers=3, epochs=2, batch_size=12)
        assert found.curve[-1]["test_loss"] < found.curve[0]["test_loss"]
    weight = model.module.encoder[0].weight.detach().numpy()
    assert np.array_equal(weight, model.layout.views(found.averaged)["encoder.0.weight"])


def test_reproducible_training_of_micro_shards():
    torch.manual_seed(0)
    module = Coder(6)
    results = [train(Torch(copy.deepcopy(module)), reproducible=each) for each in (False, True)]
    np.testing.assert_allclose(results[0].parameters, results[1].parameters, rtol=1e-3, atol=1e-5)


def test_a_failed_training_leaves_a_module_that_works():
    module = nn.Linear(6, 6)
    calls = []

    def loss(module, batch):
        calls.append(1)
        return squares(module, batch) * (float("nan") if len(calls) > 8 else 1)

    with pytest.raises(pyddl.errors.NotFiniteError):
        train(Torch(module, loss))
    assert torch.isfinite(module(torch.from_numpy(ROWS))).all()
