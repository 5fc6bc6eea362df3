"""Stacked GANs: gradients of every phase against finite differences in double precision, and what they take over."""

import copy
import pickle

import numpy as np
import pytest
from layer_oracles import ACTIVATE, differences
from supervised import encoder, moved, rows_of

from pyddl import _core, random
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.data.labels import Labels
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models import DBN, GAN, VAE, Autoencoder, Classifier, Model, StackedGAN, Trained, create, for_data
from pyddl.models.stages import stages_of
from pyddl.train import Trainer

ROWS = rows_of(40, 6)
CASES = {
    "classes": {},
    "no classes": {"encoder": encoder(6, (5, 3))},
    "sigmoid rows, other rule": {"output": "sigmoid", "objective": "non_saturating", "conditional_weight": 0.3},
    "no losses of its own": {"entropy_weight": 0, "conditional_weight": 0},
    "one level above the rows": {"encoder": encoder(6, (4,)), "entropy_weight": 2.5, "penalty": 0.3},
}
PHASES = ["discriminator_0", "generator_0", "discriminator_1", "generator_1", "discriminators", "generators"]


def trained(model, seed=7):
    return Trained(model, moved(model, seed, 0.3), model.buffers.zeros())


def started(model, rows=ROWS):
    """Model, parameters away from their start, buffers, a batch of 9 rows with labels."""
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 5, Statistics(ArraySource(rows)))
    rng = np.random.default_rng(3)
    for s in model.layout:
        if s.group not in ("rows", "encoder"):
            parameters[s.begin : s.end] += rng.normal(0, 0.3, s.size).astype(np.float32)
    batch = Batch(rows[:9], np.arange(20, 29), labels=np.arange(9) % 4, seed=11, step=4, turn=1)
    return model, parameters, buffers, batch


def made(case="classes"):
    options = {"encoder": trained(Classifier(6, 4, (5, 3), activation="tanh")), "generator": (4,),
               "discriminator": (5,), "noise": 2, **CASES[case]}
    return started(StackedGAN(6, **options))


class Plain:
    """The same losses in double precision, written down again."""

    def __init__(self, model, batch):
        self.model, self.batch, self.noise = model, batch, []
        for i in range(len(model.levels)):
            noise = np.empty((len(batch), 2), np.float32)
            _core.normal(noise, batch.index, batch.seed + (i << 40), random.NOISE, batch.step, batch.turn)
            self.noise.append(noise.astype(float))

    def network(self, p, network, x, first=0, last=None):
        """Outputs, and slopes of the first of them with respect to x."""
        jacobian = np.eye(x.shape[1])
        for name, layer in list(zip(network.names, network.layers, strict=True))[first:last]:
            w = p[f"{name}.weight"]
            x = x @ w.T + p.get(f"{name}.bias", 0)
            slope = np.where(x > 0, 1, 0.01) if layer.activation == "leaky_relu" else np.ones_like(x)
            x, jacobian = ACTIVATE[layer.activation](x), slope[:, :, None] * (w @ jacobian)
        return x, jacobian[:, 0]

    def standard(self, p, i, values):
        return (values - p[f"rows_{i}.centre"]) / p[f"rows_{i}.scale"]

    def encoded(self, p, i, values):
        """Of the level above; logits above the last one."""
        return self.network(p, self.model.encoder, values, i, i + 1)[0]

    def loss(self, parameters, phase):
        model, last = self.model, len(self.model.levels) - 1
        p = {s.name: parameters[s.begin : s.end].reshape(s.shape) for s in model.layout}
        codes = [self.batch.rows.astype(float)]
        for i in range(last):
            codes.append(self.encoded(p, i, codes[-1]))
        kind, _, number = phase.partition("_")
        which = [int(number)] if number else range(last + 1)
        top = max(which)
        given = np.eye(4)[self.batch.labels] if model.classes else np.empty((9, 0))
        if top < last:
            given = self.standard(p, top + 1, codes[top + 1])
        total = 0.0
        for i in reversed(which):
            level = model.levels[i]
            fake = self.network(p, level.generator, np.concatenate([self.noise[i], given], axis=1))[0]
            fake = fake if level.output == "linear" else self.standard(p, i, fake)
            r, of_r = self.network(p, level.discriminator, self.standard(p, i, codes[i]))
            f, of_f = self.network(p, level.discriminator, fake)
            if kind.startswith("discriminator"):
                total += self.of_critic(r, f, of_r, of_f, level.penalty)
            else:
                total += self.of_maker(r, f) + self.own(p, i, fake, given)
            given = fake
        return total

    def of_critic(self, r, f, of_r, of_f, penalty):
        if self.model.levels[0].objective.name == "non_saturating":
            return np.logaddexp(0, -r).sum() + np.logaddexp(0, f).sum()
        return np.logaddexp(0, f - r).sum() + penalty / 2 * (np.square(of_r).sum() + np.square(of_f).sum())

    def of_maker(self, r, f):
        paired = self.model.levels[0].objective.name == "r3gan"
        return np.logaddexp(0, (r if paired else 0) - f).sum()

    def own(self, p, i, fake, given):
        model, total = self.model, 0.0
        if model.entropy_weight:
            found = self.network(p, model.levels[i].recovery, fake)[0]
            total += model.entropy_weight * np.square(found - self.noise[i]).mean(axis=1).sum()
        if not model.conditional_weight or not given.shape[1]:
            return total
        again = self.encoded(p, i, fake * p[f"rows_{i}.scale"] + p[f"rows_{i}.centre"])
        if i == len(model.levels) - 1:
            told = again - np.log(np.exp(again).sum(axis=1, keepdims=True))
            return total - model.conditional_weight * told[given == 1].sum()
        off = self.standard(p, i + 1, again) - given
        return total + model.conditional_weight * np.square(off).mean(axis=1).sum()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case, phase):
    model, parameters, buffers, batch = made(case)
    batch.phase = phase
    plain, exact = Plain(model, batch), parameters.astype(float)
    gradients = np.full(model.layout.size, 7, np.float32)
    found = model.gradient(parameters, gradients, buffers, batch)
    assert found["loss"] == pytest.approx(plain.loss(exact, phase), rel=2e-5)
    own = next(each for stage in stages_of(model) for each in stage.phases if each.name == phase)
    places = np.concatenate([np.arange(s.begin, s.end) for s in model.layout if s.group in own.groups])
    expected = differences(lambda p: plain.loss(p, phase), exact, places)
    assert len(expected) > 25
    np.testing.assert_allclose(gradients[places], expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_it_has_the_protocol_s_members(case):
    model, parameters, buffers, batch = made(case)
    assert isinstance(model, Model) and create("stacked_gan", **model.options()).layout == model.layout
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.options() == model.options() and again.stages == model.stages
        other = again.layout.zeros()
        again.initialise(other, again.buffers.zeros(), 0, Statistics(ArraySource(ROWS)))
        place = slice(*model.layout.range("encoder"))
        assert np.array_equal(other[place], parameters[place]), "with the same encoder"
    count = len(model.levels)
    stages = stages_of(model)
    names = [[phase.name for phase in stage.phases] for stage in stages]
    alone = [[f"discriminator_{i}", f"generator_{i}"] for i in range(count)]
    assert names == [*alone, ["discriminators", "generators"]]
    assert [stage.epochs for stage in stages] == [10] * count + [None]
    scores = model.evaluate(parameters, buffers, batch)
    assert set(scores) >= {"loss", "loss_discriminator"} and all(np.isfinite(value) for value in scores.values())
    assert ("recognised" in scores) == model.conditional == model.needs_labels
    assert list(model.evaluate(parameters, buffers, batch.part(0, 0)).values()) == [0.0] * len(scores)
    for phase in (phase for stage in stages for phase in stage.phases):
        empty, gradients = batch.part(0, 0), np.full(model.layout.size, 7, np.float32)
        empty.phase = phase.name
        assert set(model.gradient(parameters, gradients, buffers, empty).values()) == {0.0}
        assert not any(gradients[s.begin : s.end].any() for s in model.layout if s.group in phase.groups)
    pictures = model.pictures(parameters, buffers, ROWS)
    assert set(pictures) == {"samples", *(f"inverted_{i}" for i in range(1, count))}
    assert pictures["samples"].shape == (50, 6) and pictures["inverted_1"].shape == (40, 6)
    samples = model.sample(parameters, buffers, 6, 1)
    assert samples.dtype == np.float32 and np.array_equal(samples[:4], model.sample(parameters, buffers, 6, 1)[:4])
    assert not np.array_equal(samples, model.sample(parameters, buffers, 6, 2))


@pytest.mark.parametrize("phase", ["discriminators", "generators", "generator_1"])
def test_a_batch_is_its_parts_added_up(phase):
    """So noise belongs to rows, and not to who holds them."""
    model, parameters, buffers, batch = made()
    batch.phase = phase
    whole, sums = model.layout.zeros(), np.zeros(model.layout.size)
    found = model.gradient(parameters, whole, buffers, batch)
    added = dict.fromkeys(found, 0.0)
    for begin, end in ((0, 1), (1, 1), (1, 6), (6, 9)):
        part = model.layout.zeros()
        for name, value in model.gradient(parameters, part, buffers, batch.part(begin, end)).items():
            added[name] += value
        sums += part
    np.testing.assert_allclose(whole, sums, rtol=1e-4, atol=1e-5)
    assert added == pytest.approx(found, rel=1e-5)


def test_levels_of_one_shape_neither_begin_alike_nor_have_the_same_noise():
    model, parameters, buffers, batch = started(StackedGAN(6, encoder(6, (6, 6, 6)), generator=(4,), noise=2))
    views = model.layout.views(parameters)
    assert not np.allclose(views["generator_1.0.weight"], views["generator_2.0.weight"], atol=0.1)
    noise = [level.noise_of(own) for level, (_, own, _) in zip(
        model.levels[::-1], model._chain(parameters, buffers, batch, range(4)), strict=True)]
    assert not any(np.array_equal(noise[0], other) for other in noise[1:])


def test_values_of_levels_are_standardised_as_the_rows_are():
    model, parameters, _, _ = made()
    run = trained(Classifier(6, 4, (5, 3), activation="tanh"))
    values = run.model.network.outputs(run.parameters, None, ROWS, last=2)
    views = model.layout.views(parameters)
    np.testing.assert_allclose(views["rows_2.centre"], values.mean(axis=0), rtol=1e-5)
    assert views["rows_2.scale"][0] == pytest.approx(np.sqrt(values.var(axis=0).mean()), rel=1e-5)


def dbn(finetune, **options):
    model = DBN(6, (5, 3), finetune=finetune, **options)
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    data = Statistics(ArraySource(ROWS, labels=np.arange(40) % 4))
    model.initialise(parameters, buffers, 0, data)
    for stage in model.stages[1:]:
        stage.begin(parameters, buffers, 0, data)
    parameters += np.random.default_rng(0).normal(0, 0.1, parameters.shape).astype(np.float32)
    return Trained(model, parameters, buffers)


ENCODERS = {  # activations of the levels above the rows
    "classifier": (lambda: trained(Classifier(6, 4, (5, 3))), ["relu", "relu"]),
    "classifier on an encoder": (lambda: trained(Classifier(6, 4, (3,), encoder=encoder(6, (5,)))), ["linear", "relu"]),
    "autoencoder": (lambda: trained(Autoencoder(6, (5, 3), code_activation="sigmoid")), ["relu", "sigmoid"]),
    "convolutions": (lambda: trained(Autoencoder(6, (5, 3), conv="conv2", image_shape=(2, 3), loss="mse")),
                     ["relu", "linear"]),
    "vae": (lambda: trained(VAE(6, (5, 3))), ["relu", "linear"]),
    "dbn": (lambda: dbn("none"), ["tanh", "sigmoid"]),
    "dbn, classifier": (lambda: dbn("classifier", classes=4), ["tanh", "sigmoid"]),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_of_every_kind_are_taken_over(kind):
    make, activations = ENCODERS[kind]
    run = make()
    model, parameters, buffers, _ = started(StackedGAN(6, run, noise=3, generator=(4,), discriminator=(4,)))
    assert [level.output for level in model.levels] == ["linear", *activations]
    codes = model._codes(parameters, buffers, ROWS, 2)
    assert [values.shape[1] for values in codes] == model.widths == [6, 5, 3]
    np.testing.assert_allclose(codes[2], run.model.encode(run.parameters, run.buffers, ROWS), rtol=1e-4, atol=1e-5)
    assert model.classes == (4 if "classifier" in kind else 0)
    if model.classes:
        logits = model.encoder.outputs(parameters, buffers, ROWS)
        told = run.model.probabilities(run.parameters, run.buffers, ROWS)
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), told, rtol=1e-4)
    samples = model.sample(parameters, buffers, 5, 0, *([np.full(5, 3)] if model.classes else []))
    assert samples.shape == (5, 6)
    assert create("stacked_gan", **model.options()).layout == model.layout


def test_it_is_made_for_its_data():
    run = trained(Classifier(6, ["a", "b", "c"], (5,)))
    named = ArraySource(ROWS, labels=Labels(np.arange(40) % 3, ("a", "b", "c")))
    model = for_data("stacked_gan", named, encoder=run)
    assert (model.classes, model.class_names, model.levels[0].output) == (3, ("a", "b", "c"), "sigmoid")
    assert create("stacked_gan", **model.options()).class_names == ("a", "b", "c")
    model.check_data(named)
    with pytest.raises(DataError, match="classes a, c; those of the model are a, b, c"):
        model.check_data(ArraySource(ROWS, labels=Labels(np.arange(40) % 2, ("a", "c"))))
    with pytest.raises(DataError, match="no labels, which this model needs"):
        Trainer(model, epochs=1).fit(ROWS)
    pictures = ArraySource(np.zeros((9, 8, 8), np.float32))
    model = for_data("stacked_gan", pictures, channels=(2, 3), encoder=encoder(64, (5,)))
    assert model.levels[0].image_shape == [8, 8] and model.levels[0].discriminator.shapes[2] == (4, 4, 2)
    assert model.levels[1].channels == ()
    model = for_data("stacked_gan", pictures, discriminator="conv2k4s2,dropout0.2", encoder=encoder(64, (5,)))
    assert model.levels[0].discriminator.shapes[2] == (4, 4, 2) and model.levels[1].discriminator.shapes[1] == (128,)
    assert create("stacked_gan", **model.options()).layout == model.layout


def test_a_penalty_on_squares_is_less_where_there_are_fewer_values():
    assert [level.penalty for level in StackedGAN(6, encoder(6, (3, 12)), penalty=2.0).levels] == [2, 1, 4]
    assert [level.penalty for level in StackedGAN(6, encoder(6, (3,))).levels] == [1, 0.5]
    assert [level.penalty for level in StackedGAN(6, encoder(6, (3,)), objective="wgan_gp").levels] == [1, 1]
    assert not StackedGAN(6, encoder(6, (3,)), objective="minimax").levels[1].penalised


def test_pairs_have_rules_and_an_average_of_their_own():
    model = StackedGAN(6, encoder(6), generator_rate=0.1, discriminator_optimizer="rmsprop", generator_every=5,
                       average=0.9, pretrain_epochs=(1, 2, 3), objective="wgan")
    stages = stages_of(model)
    assert [stage.epochs for stage in stages] == [1, 2, 3, None]
    for stage in stages:
        critic, maker = stage.phases
        assert critic.optimizer["optimizer"] == "rmsprop" and critic.optimizer["bound"] == 0.01
        assert (maker.every, maker.average, maker.optimizer["learning_rate"]) == (5, 0.9, 0.1)


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"encoder": None}, ParameterError, "no encoder is given, whose levels could be inverted: name a run"),
    ({"encoder": []}, ParameterError, "no encoder is given"),
    ({"encoder": trained(Classifier(6, 3))}, ParameterError, "'classifier', which has no encoder of layers: name a"),
    ({"encoder": trained(Classifier(6, 3)).model.options()["encoder"], "classes": 3}, ParameterError, "no encoder"),
    ({"encoder": [{"kind": "dense", "outputs": 3}], "classes": 3}, ParameterError,
     "the encoder has no levels, only the logits of its classes"),
    ({"encoder": Trained(GAN(6), GAN(6).layout.zeros(), GAN(6).buffers.zeros())}, ParameterError,
     "holds a model 'gan', which has no encoder of layers"),
    ({"encoder": encoder(7)}, ShapeError, "was trained on rows of 7 features; these have 6"),
    ({"pretrain_epochs": (1, 2)}, ParameterError, r"pretrain_epochs is \[1, 2\]; expected one number for all of 3"),
    ({"conditional_weight": -1}, ParameterError, "conditional_weight is -1"),
    ({"entropy_weight": -1}, ParameterError, "entropy_weight is -1"),
    ({"noise": 0}, ParameterError, "noise is 0"),
    ({"activation": "tanh"}, ParameterError, "needs a piecewise linear discriminator"),
])
def test_bad_input_is_named(given, error, message):
    with pytest.raises(error, match=message):
        StackedGAN(6, **{"encoder": encoder(6), **given})
