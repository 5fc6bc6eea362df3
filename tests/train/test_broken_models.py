"""Models that break the protocol are refused in words; training that diverges ends with an error, and no model."""

import json
import re

import numpy as np
import pytest

import pyddl
from pyddl.errors import NotFiniteError, ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models import Phase, Stage
from pyddl.train import Trainer

ROWS = np.zeros((12, 3), dtype=np.float32)


class Diverging:
    """Its parameters or buffers become NaN in step ``at``; its losses do not show it."""

    layout = Layout([Slice("weights", (2,)), Slice("bias", (1,))])
    buffers = Layout([Slice("mean", (2,))])

    def __init__(self, at, vector, answer=0.0):
        self.at, self.vector, self.answer = at, vector, answer

    def initialise(self, parameters, buffers, seed, data):
        parameters[:] = 1

    def gradient(self, parameters, gradients, buffers, batch):
        gradients[:] = 0
        if batch.step == self.at:
            views = self.layout.views(gradients) if self.vector == "parameters" else self.buffers.views(buffers)
            views["bias" if self.vector == "parameters" else "mean"][0] = np.nan
        return self.answer


@pytest.mark.parametrize(("vector", "slice_name"), [("parameters", "bias"), ("buffers", "mean")])
def test_what_the_last_step_spoils_is_found(vector, slice_name, tmp_path):
    trainer = Trainer(Diverging(3, vector), epochs=2, batch_size=6, out=str(tmp_path / "run"))
    with pytest.raises(NotFiniteError, match=f"after epoch 2, rank 0: the first .* in {vector} is in {slice_name}"):
        trainer.fit(ROWS)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]
    assert not (tmp_path / "run/model.safetensors").exists()


@pytest.mark.parametrize("answer", [None, "much", np.zeros(2), {"losses": 1.0}])
def test_a_gradient_must_return_a_number(answer):
    with pytest.raises(ParameterError, match=r"gradient of Diverging returned .*; expected a number, the sum of the"):
        Trainer(Diverging(9, "parameters", answer), epochs=1, batch_size=6).fit(ROWS)


@pytest.mark.parametrize("answer", [None, 1.5, {"accuracy": 1}])
def test_evaluate_must_return_sums_by_name(answer):
    model = Diverging(9, "parameters")
    model.evaluate = lambda *_: answer
    with pytest.raises(ParameterError, match=r"evaluate of Diverging returned .*; expected a mapping of sums"):
        Trainer(model, epochs=1, batch_size=6).fit(ROWS, test=ROWS)


@pytest.mark.parametrize("shape", [(-2,), (2.5,), 4.5])
def test_a_slice_has_a_shape_of_whole_numbers(shape):
    with pytest.raises(ParameterError, match="shape of slice weights is"):
        Layout([Slice("weights", shape)])


@pytest.mark.parametrize("stages", ["all", None, Stage([Phase("one")]), [Phase("one")], [3]])
def test_stages_are_a_sequence_of_stages(stages):
    model = Diverging(9, "parameters")
    model.stages = stages
    with pytest.raises(ParameterError, match=r"stages of Diverging are .*; expected a sequence of pyddl.models.Stage"):
        Trainer(model, epochs=1, batch_size=6).fit(ROWS)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("layout", None, "layout of Diverging is None; expected a pyddl.Layout"),
    ("buffers", [], re.escape("buffers of Diverging is []; expected a pyddl.Layout")),
    ("initialise", None, "Diverging has no method initialise"), ("gradient", 3, "Diverging has no method gradient"),
    ("options", lambda: {"kernel": np.zeros(2)}, r"options\(\) of Diverging has values that a file of JSON cannot")])
def test_what_is_no_model_is_named(name, value, said):
    model = Diverging(9, "parameters")
    setattr(model, name, value)
    with pytest.raises(ParameterError, match=said):
        Trainer(model, epochs=1, batch_size=6)


def test_a_class_is_no_model():
    with pytest.raises(ParameterError, match=re.escape("the class Diverging; expected a model: Diverging(...)")):
        Trainer(Diverging, epochs=1, batch_size=6)


def test_phases_and_their_rules_are_checked_by_kind():
    with pytest.raises(ParameterError, match=re.escape("phases of a stage are ['a']; expected a sequence of")):
        Stage(["a"])
    with pytest.raises(ParameterError, match="optimizer of phase one is 'sgd'; expected a mapping"):
        Phase("one", optimizer="sgd")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("unlike", ["stages", "merge"])
def test_ranks_with_unlike_stages_or_merges_are_refused(unlike):
    rank = pyddl.world().rank
    model = Diverging(9, "parameters")
    if unlike == "stages":
        model.stages = [Stage([Phase("one", optimizer={"learning_rate": 0.1 if rank else 0.2})])]
    else:
        model.buffers = Layout([Slice("mean", (2,), merge="max" if rank else "mean")])
    with pytest.raises(ParameterError, match=f"options differ between the ranks: {unlike} is"):
        Trainer(model, epochs=1, batch_size=6).fit(ROWS)


def test_resume_refuses_other_labels(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    labels = np.arange(40) % 2
    out = str(tmp_path / "run")
    model = pyddl.models.Classifier(4, 2)
    given = {"batch_size": 10, "out": out}
    Trainer(model, epochs=1, **given).fit(pyddl.data.ArraySource(rows, labels=labels))
    with pytest.raises(pyddl.errors.PyddlError, match="fingerprint of the labels"):
        Trainer(model, epochs=2, resume=True, **given).fit(pyddl.data.ArraySource(rows, labels=1 - labels))
    Trainer(model, epochs=2, resume=True, **given).fit(pyddl.data.ArraySource(rows, labels=labels))
