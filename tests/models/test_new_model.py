"""A model of one's own: one file (`own_models`), a row in the table, its options. Nothing else knows it by name."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from own_models import Tiny, TinyCoder, known
from support import python, run

import pyddl
from pyddl import models, options
from pyddl.data import RandomSource
from pyddl.errors import ParameterError
from pyddl.train.run import read_toml

DRIVER = """
import own_models
from pyddl.cli import main

own_models.register()
main()
"""


def of_others():
    """What an error says of an option that tiny has not."""
    *most, last = options.named("hidden").of
    return f"hidden is an option of model {', '.join(most)} and {last}"


@pytest.fixture(scope="module")
def pyddl_with_it(tmp_path_factory):
    """``pyddl`` with the models known: ``start(*arguments, code=0)`` in a folder of its own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "driver.py").write_text(DRIVER)
    rows = np.random.default_rng(0).random((120, 6), dtype=np.float32)
    np.save(folder / "rows.npy", rows)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def start(*arguments, code=0, ranks=None):
        line = python(folder / "driver.py", *map(str, arguments))
        if ranks:
            line = [sys.executable, "-m", "pyddl.comm.launcher", "-n", str(ranks), "--", *line]
        done = run(line, environ)
        assert done.code == code, f"exit {done.code}\n{done.out}\n{done.err}"
        return done.out if code == 0 else done.out + done.err

    start.folder = folder
    return start


@pytest.fixture(scope="module")
def trained(pyddl_with_it):
    """A run of 3 epochs on 2 ranks, resumed on 3 for as many again."""
    folder = pyddl_with_it.folder
    line = ("--data", folder / "rows.npy", "--width", 2, "--batch-size", 20, "--lr", 0.01, "--out", folder / "run")
    pyddl_with_it("train", "tiny", *line, "--epochs", 3, "--ranks", 2)
    before = (folder / "run/metrics.jsonl").read_text().splitlines()
    pyddl_with_it("train", "--resume", "--epochs", 6, "--out", folder / "run", ranks=3)
    return folder / "run", before


def test_it_trains_on_2_ranks_and_goes_on_on_3(trained):
    path, before = trained
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert lines[:3] == before and len(lines) == 6
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    config, summary = read_toml((path / "config.toml").read_text()), json.loads((path / "summary.json").read_text())
    assert (config["model"], config["width"], config["activation"]) == ("tiny", 2, "tanh")
    assert "hidden" not in config and (summary["model"], summary["ranks"]) == ("tiny", 3)


def test_its_run_is_evaluated_measured_encoded_and_drawn(pyddl_with_it, trained):
    path, _ = trained
    alone = json.loads(pyddl_with_it("evaluate", path, "--data", pyddl_with_it.folder / "rows.npy", "--json"))
    assert alone["rows_seen"] == 1 and alone["loss"] == alone["squared_error"]
    line = ("evaluate", path, "--json", "--measure", "largest")
    measured = pyddl_with_it(*line)
    assert json.loads(measured) == {**alone, "largest_error": pytest.approx(json.loads(measured)["largest_error"]),
                                    "of_rows": 120}
    together = pyddl_with_it(*line, ranks=3)
    assert json.loads(together) == json.loads(measured)
    said = pyddl_with_it("evaluate", path, "--measure", "largst", code=2)
    assert "model tiny has no measure 'largst'; it has largest; did you mean 'largest'?" in said
    assert "120 codes of 2" in pyddl_with_it("encode", path)
    assert "reconstructions.png" in pyddl_with_it("plot", path)


def test_it_is_simulated_and_its_help_has_its_defaults(pyddl_with_it):
    data = ("--data", pyddl_with_it.folder / "rows.npy", "--epochs", 2, "--batch-size", 20)
    said = pyddl_with_it("simulate", "tiny", *data, "--workers", 3, "--out", pyddl_with_it.folder / "simulated")
    assert "24 parameters" in said, "two codes, as its row says for simulations"
    assert "Two layers, for tests." in pyddl_with_it("train", "--help")
    told = pyddl_with_it("train", "tiny", "--help")
    assert "--width" in told and "activation of all layers but code and output  [tanh]" in told
    assert "passes over the training data  [4]" in told and "--hidden" not in told
    assert "number of codes  [2]" in pyddl_with_it("simulate", "tiny", "--help")


def test_options_of_other_models_are_refused_by_name(pyddl_with_it):
    folder = pyddl_with_it.folder
    refused = f"{of_others()}; the model here is tiny: leave it out, or"
    assert refused in pyddl_with_it("train", "tiny", "--hidden", "4", code=2)
    (folder / "c.toml").write_text('model = "tiny"\nhidden = [4]\n')
    assert f"c.toml: {refused}" in pyddl_with_it("train", "--config", folder / "c.toml", code=2)
    assert "width is an option of model tiny; the model here is autoencoder" in pyddl_with_it(
        "train", "autoencoder", "--width", "4", code=2)
    assert "did you mean 'tiny'" in pyddl_with_it("train", "tinny", code=2)


def test_a_run_of_one_model_is_no_obstacle_to_another(pyddl_with_it):
    folder = pyddl_with_it.folder
    pyddl_with_it("train", "autoencoder", "--data", folder / "rows.npy", "--hidden", "2", "--epochs", "1", "--out",
                  folder / "ae")
    line = ("train", "--config", folder / "ae/config.toml", "--overwrite", "--out", folder / "other")
    pyddl_with_it(*line, "tiny", "--width", "2", code=2)  # hidden was chosen
    text = (folder / "ae/config.toml").read_text().replace("hidden = [\n    2,\n]", "hidden = [256, 64]")
    (folder / "ae/config.toml").write_text(text)
    pyddl_with_it(*line, "tiny", "--width", "2")
    assert read_toml((folder / "other/config.toml").read_text())["model"] == "tiny"


def test_a_run_becomes_an_estimator_and_an_estimator_is_made_from_the_table(trained):
    path, _ = trained
    with known():
        loaded = pyddl.load(path)
        assert isinstance(loaded, TinyCoder) and (loaded.width, loaded.activation) == (2, "tanh")
        X = np.load(path.parent / "rows.npy")
        assert loaded.transform(X).shape == (120, 2) and len(loaded.partial_fit(X).loss_curve_) == 7
        fitted = TinyCoder(width=2, random_state=0, batch_size=20).fit(X)
        assert len(fitted.loss_curve_) == 4 and isinstance(fitted.model_, Tiny), "epochs as its row says"
        assert fitted.get_feature_names_out().tolist() == ["tinycoder0", "tinycoder1"]
        with pytest.raises(TypeError, match=f"{of_others()}; the model"):
            TinyCoder(hidden=(4,))
        with pytest.raises(ParameterError, match="width is 0; expected a whole number at least 1"):
            TinyCoder(width=0).fit(X)
        with pytest.raises(ParameterError, match="has an encoder only: there is no way back"):
            fitted.inverse_transform(fitted.transform(X))


def test_the_program_in_the_docs_is_a_pyddl_that_knows_one_model_more(tmp_path):
    page = (Path(__file__).parents[2] / "docs/own_models.md").read_text(encoding="utf-8")
    program, estimator, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "tied.py").write_text(program.replace("\nif __name__", f"\n{estimator}\nif __name__"))
    done = run(python(tmp_path / "tied.py", "train", "tied", "--data", "digits", "--ranks", "2", "--out",
                      str(tmp_path / "run")), {**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.err
    assert "epoch 3/3" in done.out


def test_only_its_own_options_reach_it():
    with known():
        made = models.for_data("tiny", RandomSource(10, 4), width=2, hidden=(3,), loss="bce", epochs=3, activation=None)
        assert made.options() == {"inputs": 4, "width": 2, "activation": "linear"}
        assert [option.name for option in options.of_model("tiny")] == ["activation", "width"]
    assert "tiny" not in models.NAMES and "tiny" not in options.named("activation").of


def test_a_finished_run_reaches_a_model_as_what_was_trained(tmp_path, monkeypatch):
    class OnTop(Tiny):
        @classmethod
        def for_data(cls, data, below):
            made = cls(data.features)
            made.below = below
            return made

    with known():
        options.add(options.Option("below", "run", None, "model", "path of a run", trainer=False, of=("on_top",)))
        monkeypatch.setattr(sys.modules["own_models"], "OnTop", OnTop, raising=False)
        models.TABLE["on_top"] = models.Entry("own_models", "OnTop", "For tests.")
        result = pyddl.train.Trainer(Tiny(6), epochs=1, batch_size=10, out=str(tmp_path)).fit(np.eye(6))
        given = options.with_runs({"below": str(tmp_path), "width": 3, "epochs": 2},
                                  lambda path: models.Trained.of(pyddl.train.load_run(path)))
        below = models.for_data("on_top", RandomSource(10, 6), **given).below
        assert isinstance(below, models.Trained) and isinstance(below.model, Tiny)
        np.testing.assert_array_equal(below.parameters, result.parameters)
