"""What tests of models with labels share: a trained encoder, the same layers in double, and what each must pass."""

import copy
import pickle

import numpy as np
from layer_oracles import ACTIVATE
from model_parts import together

from pyddl.data.batch import Batch
from pyddl.models import Autoencoder
from pyddl.models.table import Trained


def encoder(inputs, hidden=(8, 5), seed=7):
    """An autoencoder as after training: weights and biases that are not those of a start."""
    model = Autoencoder(inputs, hidden=hidden, loss="mse", **({"activation": "tanh"} if len(hidden) > 1 else {}))
    return Trained(model, moved(model, seed), model.buffers.zeros())


def moved(model, seed=1, by=0.1):
    """Parameters near a start, biases too."""
    parameters = model.layout.zeros()
    model.initialise(parameters, model.buffers.zeros(), seed, None)
    random = np.random.default_rng(seed)
    for view in model.layout.views(parameters).values():
        view += by * random.normal(size=view.shape).astype(np.float32)
    return parameters


def rows_of(n, inputs, seed=0):
    return np.random.default_rng(seed).random((n, inputs), dtype=np.float32)


def places_of(model):
    """Some elements of each tensor, within the vector."""
    random = np.random.default_rng(2)
    return np.concatenate([s.begin + random.choice(s.size, min(s.size, 4), replace=False) for s in model.layout])


def code_of(model, parameters, rows, last):
    """What the first ``last`` layers make of rows, in double."""
    views = {s.name: parameters[s.begin : s.end].reshape(s.shape) for s in model.layout}
    values = rows.astype(float)
    for name, layer in list(zip(model.network.names, model.network.layers, strict=True))[:last]:
        values = ACTIVATE[layer.activation](values @ views[f"{name}.weight"].T + views[f"{name}.bias"])
    return values


def assert_is_the_same_again(model):
    """Made of its options, copied and pickled it trains and begins alike; of options alone, but for the encoder."""
    plain = type(model)(**model.options())
    for again in (plain, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.options() == model.options() and again.layout == model.layout
        assert [stage if isinstance(stage, str) else (stage.phases, stage.epochs) for stage in again.stages] == [
            stage if isinstance(stage, str) else (stage.phases, stage.epochs) for stage in model.stages]
        if again is not plain or not model.encoder_layers:
            assert moved(again).tobytes() == moved(model).tobytes()


def assert_parts_make_the_whole(model, parts, phase, labels):
    """Start, gradient and scores of all parts, in a turn of this phase."""
    parameters, gradients, rows = moved(model, by=0), model.layout.zeros(), rows_of(len(labels), model.inputs)
    expected = model.gradient(parameters, gradients, None, Batch(rows, labels=labels, phase=phase))
    sums = model.evaluate(parameters, None, Batch(rows, labels=labels))

    def work(part, group):
        mine = model.split(part, parts)
        own = moved(mine, by=0)
        assert own.tobytes() == mine.layout.cut(model.layout, parameters).tobytes()
        assert [stage if isinstance(stage, str) else stage.epochs for stage in mine.stages] == [
            stage if isinstance(stage, str) else stage.epochs for stage in model.stages]
        got, wanted = mine.layout.zeros(), mine.layout.views(mine.layout.cut(model.layout, gradients))
        loss = mine.gradient(own, got, None, Batch(rows, labels=labels, phase=phase, group=group))
        for s in mine.layout:
            view = mine.layout.views(got)[s.name]
            if phase == "head" and s.group != "head":
                assert not view.any()
            else:
                np.testing.assert_allclose(view, wanted[s.name], rtol=1e-3, atol=1e-3, err_msg=s.name)
        return loss, mine.evaluate(own, None, Batch(rows, labels=labels, group=group))

    results = together(parts, work)
    np.testing.assert_allclose(sum(loss for loss, _ in results), expected, rtol=1e-5)
    for name, value in sums.items():
        np.testing.assert_allclose(sum(each[name] for _, each in results), value, rtol=1e-4)
