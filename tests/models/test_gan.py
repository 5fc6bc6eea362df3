"""Adversarial pairs: gradients of every objective against finite differences in double precision, and what is refused.
"""

import copy
import pickle

import numpy as np
import pytest
from layer_oracles import differences

from pyddl import _core, random
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.data.labels import Labels
from pyddl.data.picture import Picture
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models import GAN, Model, create, for_data
from pyddl.models.dcgan import discriminator_of
from pyddl.models.distance import energy_distance
from pyddl.models.gan import BETWEEN
from pyddl.models.layers import BatchNorm, Dense, Dropout, LayerNorm, Reshape
from pyddl.models.network import Network
from pyddl.models.objectives import OBJECTIVES
from pyddl.models.stages import stages_of
from pyddl.optim.given import optimizer_of
from pyddl.train import Trainer
from pyddl.train.crew import Crew

ROWS = np.random.default_rng(0).normal(3, 2, (40, 3)).astype(np.float32)
CASES = {
    "r3gan": {"penalty": 0.7},
    "r3gan, falling": {"objective": "r3gan", "penalty": 0.7, "penalty_end": 0.01, "penalty_steps": 10},
    "r3gan, conditional": {"objective": "r3gan", "conditional": True, "classes": 4},
    "non_saturating": {},
    "non_saturating, R1, smoothed": {"objective": "non_saturating", "penalty": 2.0, "label_smoothing": 0.1},
    "minimax": {},
    "wgan": {},
    "wgan_gp": {"penalty": 3.0},
    "wgan_gp, sigmoid, conditional": {"objective": "wgan_gp", "output": "sigmoid", "conditional": True, "classes": 4},
    "wgan_gp, tanh": {"objective": "wgan_gp", "output": "tanh"},
    "r3gan, packs of 2 and a rest": {"objective": "r3gan", "packing": 2, "penalty": 0.7},
    "wgan_gp, packs of 3": {"objective": "wgan_gp", "packing": 3, "output": "tanh"},
    "non_saturating, R1, a pack of 11": {"objective": "non_saturating", "packing": 11, "penalty": 2.0},
}


def made(case="r3gan", inputs=3, **options):
    """Model, parameters, buffers, a batch of 9 rows with labels."""
    options = {"objective": case, "generator": (6, 5), "discriminator": (7, 6), "noise": 2, **CASES.get(case, {}),
               **options}
    model = GAN(inputs, **options)
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 5, Statistics(ArraySource(ROWS[:, :inputs])))
    rng = np.random.default_rng(3)
    for name, view in model.layout.views(parameters).items():
        if not name.startswith("rows."):
            view += rng.normal(0, 0.3, view.shape).astype(np.float32)
    batch = Batch(ROWS[:9, :inputs], np.arange(20, 29), labels=np.arange(9) % 4, seed=11, step=4, turn=1)
    return model, parameters, buffers, batch


class Plain:
    """The same losses in double precision, written down again."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        count, key = len(batch), (batch.index, batch.seed, random.NOISE, batch.step)
        noise, places = np.empty((count, model.noise), np.float32), np.empty((count, 1), np.float32)
        _core.normal(noise, *key, batch.turn)
        _core.uniform(places, *key, BETWEEN + batch.turn)
        self.noise, self.places = noise.astype(float), places.astype(float)
        self.labels = np.eye(model.classes)[batch.labels] if model.classes else np.empty((count, 0))

    def network(self, p, network, x):
        """Outputs, and slopes of their sum with respect to x."""
        jacobian = None
        for name, layer in zip(network.names, network.layers, strict=True):
            w = p[f"{name}.weight"]
            x = x @ w.T + p.get(f"{name}.bias", 0)
            slope = np.where(x > 0, 1, 0.01) if layer.activation == "leaky_relu" else np.ones_like(x)
            if layer.activation == "leaky_relu":
                x = x * slope
            elif layer.activation == "sigmoid":
                x = 1 / (1 + np.exp(-x))
            elif layer.activation == "tanh":
                x = np.tanh(x)
            jacobian = slope[:, :, None] * (w if jacobian is None else w @ jacobian)
        return x, jacobian  # (rows, outputs), (rows, outputs, inputs)

    def loss(self, parameters, phase):
        model, p = self.model, model_views(self.model, parameters)
        seen = self.standard(p, self.batch.rows.astype(float))
        fake, _ = self.network(p, model.generator, np.concatenate([self.noise, self.labels], axis=1))
        fake = fake if model.output == "linear" else self.standard(p, fake)
        begins, m = range(0, 9, model.packing), model.packing
        packs = [[(min(begin, 9 - m) + j) % 9 for j in range(m)] for begin in begins]
        weights = np.array([min(m, 9 - begin) for begin in begins])
        seen, fake = ([np.concatenate([each[i] for i in pack]) for pack in packs] for each in (seen, fake))
        seen, fake, places = np.array(seen), np.array(fake), self.places[[pack[0] for pack in packs]]
        r, of_r = self.judged(p, seen)
        f, of_f = self.judged(p, fake)
        middle = self.judged(p, places * seen + (1 - places) * fake)[1]
        return (weights * self.game(r, f, of_r, of_f, middle, phase)).sum()

    def judged(self, p, x):
        """The discriminator's numbers of the rows' classes, and their slopes with respect to x."""
        found, jacobian = self.network(p, self.model.discriminator, x)
        row, place = np.arange(len(x)), self.batch.labels if self.model.classes else 0
        return found[row, place], jacobian[row, place]

    def standard(self, p, rows):
        return (rows - p["rows.centre"]) / p["rows.scale"]

    def game(self, r, f, of_r, of_f, of_middle, phase):
        model, kind = self.model, self.model.objective.name
        weight = model.penalty
        if model.penalty_end is not None:
            weight *= (model.penalty_end / model.penalty) ** (self.batch.step / model.penalty_steps)
        norms = [np.square(g).sum(axis=1) for g in (of_r, of_f, of_middle)]

        def plus(x):
            return np.logaddexp(0, x)

        if phase == "generator":
            return {"r3gan": plus(r - f), "non_saturating": plus(-f), "minimax": -plus(f), "wgan": -f,
                    "wgan_gp": -f}[kind]
        s = model.label_smoothing
        told = (1 - s) * plus(-r) + s * plus(r) + plus(f)
        return {"r3gan": plus(f - r) + weight / 2 * (norms[0] + norms[1]),
                "non_saturating": told + weight / 2 * norms[0], "minimax": told, "wgan": f - r,
                "wgan_gp": f - r + weight * (np.sqrt(norms[2]) - 1) ** 2}[kind]


def model_views(model, parameters):
    return {s.name: parameters[s.begin : s.end].reshape(s.shape) for s in model.layout}


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case, phase):
    model, parameters, buffers, batch = made(case)
    batch.phase = phase
    plain, exact = Plain(model, batch), parameters.astype(float)
    gradients = np.full(model.layout.size, 7, np.float32)
    found = model.gradient(parameters, gradients, buffers, batch)
    assert found["loss"] == pytest.approx(plain.loss(exact, phase), rel=2e-5)
    places = np.concatenate([np.arange(s.begin, s.end) for s in model.layout if s.group == phase])
    expected = differences(lambda p: plain.loss(p, phase), exact, places)
    assert len(expected) > 30
    np.testing.assert_allclose(gradients[places], expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_it_has_the_protocol_s_members(case):
    model, parameters, buffers, batch = made(case)
    assert isinstance(model, Model) and create("gan", **model.options()).layout == model.layout
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.options() == model.options() and again.stages == model.stages
    (stage,) = stages_of(model)
    assert [phase.name for phase in stage.phases] == ["discriminator", "generator"]
    scores = model.evaluate(parameters, buffers, batch)
    assert list(scores)[:2] == ["loss", "loss_discriminator"] and all(np.isfinite(value) for value in scores.values())
    assert list(model.evaluate(parameters, buffers, batch.part(0, 0)).values()) == [0.0] * len(scores)
    for phase in ("discriminator", "generator"):
        empty = batch.part(0, 0)
        empty.phase = phase
        gradients = np.full(model.layout.size, 7, np.float32)
        assert set(model.gradient(parameters, gradients, buffers, empty).values()) == {0.0}
        begin, end = model.layout.range(phase)
        assert not any(gradients[s.begin : s.end].any() for s in model.layout if begin <= s.begin < end)
    assert model.pictures(parameters, buffers, ROWS)["samples"].shape == (50, 3)
    samples = model.sample(parameters, buffers, 6, 1)
    assert samples.dtype == np.float32 and np.array_equal(samples[:4], model.sample(parameters, buffers, 6, 1)[:4])
    assert not np.array_equal(samples, model.sample(parameters, buffers, 6, 2))


@pytest.mark.parametrize("case", ["r3gan", "wgan_gp", "non_saturating, R1, smoothed", "r3gan, packs of 2 and a rest",
                                  "wgan_gp, packs of 3"])
@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_a_batch_is_its_parts_added_up(case, phase):
    """So pairs, noise and points between belong to rows, and not to who holds them."""
    model, parameters, buffers, batch = made(case)
    batch.phase = phase
    whole, sums = model.layout.zeros(), np.zeros(model.layout.size)
    losses = model.gradient(parameters, whole, buffers, batch)
    found = dict.fromkeys(losses, 0.0)
    first = 2 if model.packing == 2 else 3  # cut between packs
    for begin, end in ((0, first), (first, first), (first, 6), (6, 9)):
        part = model.layout.zeros()
        for name, value in model.gradient(parameters, part, buffers, batch.part(begin, end)).items():
            found[name] += value
        sums += part
    begin, end = model.layout.range(phase)
    np.testing.assert_allclose(whole[begin:end], sums[begin:end], rtol=1e-4, atol=1e-5)
    assert found == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("case", ["r3gan", "wgan_gp", "non_saturating, R1, smoothed", "minimax", "wgan",
                                  "r3gan, packs of 2 and a rest", "wgan_gp, packs of 3", "r3gan, conditional"])
def test_a_discriminator_may_have_dropout(case):
    """Its gradient is that of the loss as drawn, and a batch is its parts added up."""
    critic = [Dense(7, "leaky_relu"), Dropout(0.4), Dense(6, "leaky_relu"), Dense(4 if "cond" in case else 1)]
    model, parameters, buffers, batch = made(case, discriminator=critic)
    plain = made(case)[0].gradient(parameters, model.layout.zeros(), buffers, batch)["loss"]
    for phase in ("discriminator", "generator"):
        batch.phase = phase
        whole, other = model.layout.zeros(), model.layout.zeros()
        found = model.gradient(parameters, whole, buffers, batch)["loss"]
        assert phase == "generator" or found != plain
        direction, begin, end = np.zeros_like(parameters), *model.layout.range(phase)
        direction[begin:end] = whole[begin:end] / np.linalg.norm(whole[begin:end])
        up, down = (model.gradient(parameters + np.float32(h) * direction, other, buffers, batch)["loss"]
                    for h in (2e-3, -2e-3))
        assert (up - down) / 4e-3 == pytest.approx(np.linalg.norm(whole[begin:end]), rel=0.02)
        sums = np.zeros(model.layout.size)
        for first, last in ((0, 6), (6, 9)):
            part = model.layout.zeros()
            model.gradient(parameters, part, buffers, batch.part(first, last))
            sums += part
        np.testing.assert_allclose(whole[begin:end], sums[begin:end], rtol=1e-4, atol=1e-5)
    model.evaluate(parameters, buffers, batch)


def test_a_turn_has_noise_of_its_own():
    model, parameters, buffers, batch = made()
    seen = []
    for step, turn in ((4, 0), (4, 1), (5, 0), (4, 0)):
        batch.step, batch.turn = step, turn
        seen.append(model.seen(parameters, buffers, batch)[9:])
    assert np.array_equal(seen[0], seen[3])
    assert not any(np.array_equal(seen[0], other) for other in seen[1:3])


def test_a_discriminator_that_is_sure_has_finite_gradients():
    model, parameters, buffers, batch = made(penalty=1.0)
    parameters[slice(*model.layout.range("discriminator"))] *= 100
    gradients = model.layout.zeros()
    batch.phase = "discriminator"
    assert np.isfinite(model.gradient(parameters, gradients, buffers, batch)["loss"])
    assert np.isfinite(gradients).all()


def test_rows_are_standardised_and_kinks_lie_among_them():
    model = GAN(3, discriminator=(400,), noise=2)
    parameters = model.layout.zeros()
    model.initialise(parameters, model.buffers.zeros(), 0, Statistics(ArraySource(ROWS)))
    views = model.layout.views(parameters)
    np.testing.assert_allclose(views["rows.centre"], ROWS.mean(axis=0), rtol=1e-6)
    assert views["rows.scale"][0] == pytest.approx(np.sqrt(ROWS.var(axis=0).mean()), rel=1e-6)
    places = views["discriminator.0.bias"] / np.linalg.norm(views["discriminator.0.weight"], axis=1)
    reach = (ROWS.max(axis=0) - ROWS.min(axis=0)).max() / 2 / views["rows.scale"][0]
    assert np.abs(places).max() < reach and places.std() == pytest.approx(reach / np.sqrt(3), rel=0.1)
    constant = model.layout.zeros()
    with pytest.raises(DataError, match="all 5 rows are the same"):
        model.initialise(constant, model.buffers.zeros(), 0, Statistics(ArraySource(np.ones((5, 3), np.float32))))
    model.initialise(constant, model.buffers.zeros(), 0, Statistics(ArraySource(np.ones((1, 3), np.float32))))
    assert np.isfinite(constant).all() and model.layout.views(constant)["rows.scale"][0] == 1


def test_it_is_made_for_its_data():
    grey = ArraySource(np.random.default_rng(0).random((20, 70), dtype=np.float32))
    assert for_data("gan", grey).output == "sigmoid" and for_data("gan", grey).noise == 64
    assert for_data("gan", grey, output="tanh").output == "tanh"
    assert for_data("gan", ArraySource(ROWS)).output == "linear" and for_data("gan", ArraySource(ROWS)).noise == 3
    pictures = ArraySource(np.zeros((9, 8, 8), np.float32))
    assert for_data("gan", pictures, channels=(4, 4)).image_shape == (8, 8)
    named = ArraySource(ROWS, labels=Labels(np.arange(40) % 3, ("a", "b", "c")))
    model = for_data("gan", named, conditional=True)
    assert (model.classes, model.class_names, model.needs_labels) == (3, ("a", "b", "c"), True)
    assert create("gan", **model.options()).class_names == ("a", "b", "c")
    with pytest.raises(DataError, match="no labels"):
        for_data("gan", ArraySource(ROWS), conditional=True)


def test_layers_may_be_given():
    model = GAN(4, [Dense(6, "relu"), Dense(4), Reshape((2, 2, 1))], [Dense(5, "relu"), Dense(1)], noise=3)
    assert create("gan", **model.options()).generator.layers == model.generator.layers
    assert GAN(4, (), ()).layout.count == 4 * 4 + 4 + 4 + 4 + 1, "and no bias of a discriminator of differences"
    assert GAN(4, (), (), objective="minimax").layout.count == 4 * 4 + 4 + 4 + 1 + 4 + 1


@pytest.mark.parametrize(("generator", "discriminator"), [((5, 5), (6,)), ("5,5", "6")])
def test_the_generator_may_have_an_activation_of_its_own(generator, discriminator):
    """A smooth one, too: only the discriminator's slopes are penalised."""
    model = GAN(3, generator, discriminator, generator_activation="tanh")
    for made in (model, create("gan", **model.options())):
        assert [layer.activation for layer in made.generator.layers] == ["tanh", "tanh", "linear"]
        assert [layer.activation for layer in made.discriminator.layers] == ["leaky_relu", "linear"]


PICTURES = {
    "grey": ((8, 8), {}),
    "colours in planes": ((3, 8, 12), {}),
    "colours together, resized": ((8, 8, 3), {"upsample": "resize", "activation": "relu"}),
    "normalised": ((8, 8), {"batch_norm": "own", "activation": "relu"}),
    "dense layers besides": ((8, 8), {"generator": (9,), "discriminator": (10,)}),
    "classes": ((8, 8), {"conditional": True, "classes": 4}),
    "packs": ((8, 8), {"packing": 2}),
    "packs of colours": ((4, 4, 3), {"packing": 3}),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_networks_for_pictures(kind):
    """The largest gradients of each tensor against finite differences of the loss, in single precision."""
    shape, options = PICTURES[kind]
    inputs = int(np.prod(shape))
    rows = np.random.default_rng(0).random((30, inputs), dtype=np.float32)
    model = GAN(inputs, channels=(3, 4), image_shape=shape, noise=5, **options)
    assert create("gan", **model.options()).layout == model.layout
    parameters, buffers, scratch = model.layout.zeros(), model.buffers.zeros(), model.layout.zeros()
    model.initialise(parameters, buffers, 2, Statistics(ArraySource(rows)))
    batch = Batch(rows[:7], np.arange(7), labels=np.arange(7) % 4, seed=1, step=2)
    assert model.sample(parameters, buffers, 3, 0).shape == (3, inputs)
    for batch.turn, batch.phase in enumerate(("discriminator", "generator")):
        gradients = model.layout.zeros()
        assert np.isfinite(model.gradient(parameters, gradients, buffers, batch)["loss"])
        for s in model.layout:
            if s.group != batch.phase or (s.group == "generator" and model.batch_norm != "none"):
                continue
            own = gradients[s.begin : s.end]
            places = s.begin + np.argsort(-np.abs(own))[:5]
            off = np.abs(gradients[places] - differences(
                lambda p: model.gradient(p, scratch, buffers, batch)["loss"], parameters, places, step=2e-4))
            assert sorted(off)[len(off) // 2] < 0.01 * np.abs(own).max() + 0.01, s.name  # a kink may lie between


def test_planes_of_colour_stay_planes():
    """Rows of CIFAR-10 have one plane after another: a picture and its row are one to both networks."""
    model = GAN(3 * 4 * 4, channels=(2,), image_shape=(3, 4, 4))
    assert model.picture.planes and model.picture.shape == (4, 4, 3)
    assert model.generator.layers[-1].planes and model.discriminator.layers[0].planes


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (3, 6, 7)])
def test_packed_pictures_lie_over_one_another(shape):
    """Each channel of what the first convolution sees is a channel of one of the pictures."""
    picture, rows = Picture.of(shape), np.arange(5 * np.prod(shape), dtype=np.float32).reshape(5, -1)
    reshapes = [each for each in discriminator_of(picture, (), (), outputs=1, bias=True, activation="relu",
                                                  initialiser="auto", packing=5) if isinstance(each, Reshape)]
    network = Network(reshapes, rows.size)
    network.compile(Layout([]), Layout([]))
    seen = network.outputs(np.empty(0, np.float32), None, rows.reshape(1, -1)).reshape(6, 7, -1)
    alone = [row.reshape(3, 6, 7).transpose(1, 2, 0) if picture.planes else row.reshape(6, 7, -1) for row in rows]
    expected = {channel.tobytes() for each in alone for channel in each.transpose(2, 0, 1)}
    assert {channel.tobytes() for channel in seen.transpose(2, 0, 1)} == expected


def test_phases_have_their_own_rules():
    model = GAN(3, objective="wgan", generator_rate=0.1, discriminator_optimizer="rmsprop", generator_every=5,
                pretrain_steps=7, average=0)
    alone, both = stages_of(model)
    assert alone.steps == 7 and [phase.name for phase in alone.phases] == ["discriminator"]
    critic, maker = both.phases
    assert (critic.every, maker.every, maker.average) == (1, 5, None)
    rules = [optimizer_of("adam", {"schedule": "constant"}, 10, 1.0, phase.optimizer) for phase in (critic, maker)]
    assert (rules[0].name, rules[0].bound) == ("rmsprop", 0.01)
    assert (rules[1].name, rules[1].beta1, rules[1].beta2, rules[1].bound) == ("adam", 0, 0.99, None)
    assert rules[1].learning_rate(0) == 0.1 if callable(rules[1].learning_rate) else rules[1].learning_rate == 0.1


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"noise": 0}, ParameterError, "noise is 0; expected a whole number at least 1"),
    ({"generator": [Dense(5)]}, ShapeError, "output has 5 features .*, and a row has 3"),
    ({"generator_every": 0}, ParameterError, "generator_every is 0"),
    ({"objective": "r3gam"}, ParameterError, "did you mean 'r3gan'"),
    ({"discriminator": [Dense(1, "sigmoid")]}, ParameterError, "objective r3gan needs one number without bounds"),
    ({"discriminator": [Dense(2)]}, ParameterError, "needs one number without bounds"),
    ({"objective": "wgan_gp", "clip_weights": 0.1}, ParameterError, "clip_weights belongs to objective wgan"),
    ({"objective": "wgan", "penalty": 1.0}, ParameterError, "penalty belongs to objective r3gan"),
    ({"activation": "tanh"}, ParameterError, r"discriminator.0 is Dense\(.*needs a piecewise linear discriminator"),
    ({"discriminator": [LayerNorm(), Dense(1)]}, ParameterError,
     r"discriminator.0 is LayerNorm\(.*and no normalisation"),
    ({"discriminator": [Reshape((1, 1, 3)), BatchNorm(), Reshape((3,)), Dense(1)]}, ParameterError,
     r"keeps discriminator.1.sums, statistics in which rows and samples would mix"),
    ({"penalty_end": 0.1}, ParameterError, "give both, or none"),
    ({"objective": "minimax", "penalty_end": 0.1, "penalty_steps": 3}, ParameterError, "no penalty that could fall"),
    ({"label_smoothing": 0.1}, ParameterError, "label_smoothing belongs to objective minimax and non_saturating"),
    ({"conditional": True}, ParameterError, "conditional needs classes"),
    ({"packing": 0}, ParameterError, "packing is 0; expected a whole number at least 1"),
    ({"packing": 2, "conditional": True, "classes": 2}, ParameterError, "the rows of a pack are of several classes"),
    ({"generator": 8}, ParameterError, "expected units of hidden layers"),
    ({"generator": (8, Dense(3))}, ParameterError, "mixes numbers and layers"),
    ({"channels": (4,)}, ParameterError, "the rows do not say the shape of a picture"),
    ({"channels": (4,), "image_shape": (3, 3)}, ShapeError, "9 values; rows have 3"),
    ({"channels": (4,), "image_shape": (1, 3)}, ShapeError, "cannot be halved 1 times: expected multiples of 2"),
    ({"image_shape": (1, 3)}, ParameterError, "image_shape is .*give channels, for example 64,128"),
    ({"batch_norm": "own"}, ParameterError, "batch_norm is 'own', which is of convolutions"),
    ({"conditional": True, "classes": 2, "discriminator": [Dense(1)]}, ParameterError, r"last layer be Dense\(2"),
    ({"generator_activation": "rleu"}, ParameterError, "did you mean 'relu'"),
    ({"generator_optimizer": "adm"}, ParameterError, "did you mean 'adam'"),
    ({"discriminator_rate": 0}, ParameterError, "discriminator_rate is 0"),
])
def test_bad_input_is_named(given, error, message):
    with pytest.raises(error, match=message):
        GAN(3, **given)


def test_smooth_activations_are_welcome_where_nothing_is_penalised():
    assert not GAN(3, objective="wgan", activation="tanh").penalised
    assert not GAN(3, activation="tanh", penalty=0).penalised


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_where_the_data_are(objective):
    """A normal distribution far from where the generator begins, in two dimensions."""
    rows = np.random.default_rng(1).normal((4, -7), (0.5, 1.0), (512, 2)).astype(np.float32)
    model = GAN(2, (16,), (16, 16), objective=objective, average=0.99)
    result = Trainer(model, strategy="local", batch_size=64, epochs=60, seed=0, learning_rate=2e-3,
                     schedule="cosine").fit(rows)
    samples = model.sample(result.averaged, result.buffers, 2000, 3)
    np.testing.assert_allclose(samples.mean(axis=0), (4, -7), atol=0.6)
    line = result.metrics[-1]
    right = {"train_pairs_right"} if "train_pairs_right" in line else {"train_real_right", "train_fake_right"}
    assert all(0.2 < line[name] < 0.9 for name in right), line
    assert ("train_penalty" in line) == model.penalised
    assert line["train_loss_generator"] != line["train_loss_discriminator"]


def test_the_energy_distance_tells_where_samples_are():
    """Of normal samples that are a shift away: by 1000 draws; of exact ones 0 but for chance."""
    class Shifted:
        def __init__(self, shift):
            self.shift = shift

        def sample(self, parameters, buffers, count, seed):
            return np.random.default_rng(seed).normal(self.shift, 1, (count, 2)).astype(np.float32)

    rows = ArraySource(np.random.default_rng(5).normal(size=(3000, 2)).astype(np.float32))
    near, far, farther = (energy_distance(Shifted(shift), None, None, rows, Crew())["energy_distance"]
                          for shift in (0.0, 1.0, 100.0))
    assert abs(near) < 0.01 < 0.5 < far < 1 and farther == pytest.approx(2 * 100 * np.sqrt(2), rel=0.02)
    model, parameters, buffers, _ = made()
    assert set(model.measures["energy_distance"](parameters, buffers, ArraySource(ROWS), Crew())) == {"energy_distance"}


def test_a_conditional_generator_tells_classes_apart():
    y = np.arange(600) % 3
    rows = (np.random.default_rng(0).normal(0, 0.3, (600, 1)) + 3 * y[:, None]).astype(np.float32)
    data = ArraySource(rows, labels=Labels(y.astype(np.int64), ("0", "1", "2")))
    model = for_data("gan", data, conditional=True, generator=(16, 16), discriminator=(16, 16), average=0.99)
    result = Trainer(model, strategy="local", batch_size=60, epochs=80, seed=0, learning_rate=2e-3).fit(data)
    found = [model.sample(result.averaged, result.buffers, 300, 0, np.full(300, k)).mean() for k in range(3)]
    np.testing.assert_allclose(found, [0, 3, 6], atol=0.4)
    in_turn = model.sample(result.averaged, result.buffers, 300, 0)
    np.testing.assert_allclose([in_turn[k::3].mean() for k in range(3)], [0, 3, 6], atol=0.4)
    with pytest.raises(DataError, match="no labels, which this model needs"):
        Trainer(model, epochs=1).fit(rows)
