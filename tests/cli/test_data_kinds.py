"""Tables with labels by name and folders of pictures, through training, evaluation and codes."""

import numpy as np
import pytest
from click.testing import CliRunner
from support import pyddl

from pyddl.cli import encode, evaluate, generate

pd = pytest.importorskip("pandas")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def said(command, *arguments, check=0):
    done = CliRunner().invoke(command, list(map(str, arguments)), standalone_mode=False)
    assert (done.exception is None) == (check == 0), done
    return done.output if check == 0 else str(done.exception)


def test_a_table_is_trained_on_evaluated_and_encoded(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).random((300, 5))
    table = pd.DataFrame(rows, columns=list("abcde")).assign(kind=np.where(rows[:, 0] > rows[:, 1], "more", "less"))
    table[:200].to_csv(tmp_path / "train.csv")
    table[200:].to_csv(tmp_path / "test.tsv.gz", sep="\t", index=False)
    pyddl("train", "classifier", "--data", "train.csv", "--labels", "train.csv:kind", "--test", "test.tsv.gz",
          "--test-labels", "test.tsv.gz:kind", "--hidden", "8", "--epochs", "20", "--lr", "0.02", "--batch-size", "20",
          "--out", "run", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    out = said(evaluate.command, "run")
    assert "test.tsv.gz: 100 x 5" in out and "labels of 2 classes from test.tsv.gz:kind (left out" in out
    accuracy = next(float(line.split()[1]) for line in out.splitlines() if line.startswith("accuracy"))
    assert accuracy > 0.8
    assert "200 codes of 8 float32" in said(encode.command, "run", "--data", "train.csv:a,b,c,d,e")
    assert "100 codes of 8 float32" in said(encode.command, "run"), "labels are no feature here, too"
    assert "has no column 'kin'" in said(evaluate.command, "run", "--data", "train.csv", "--labels", "train.csv:kin",
                                         check=1)


def test_samples_have_the_names_of_a_table_s_columns(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).random((40, 2))
    pd.DataFrame(rows, columns=["a", "b"]).assign(kind=["x", "y"] * 20).to_csv(tmp_path / "t.csv", index=False)
    pyddl("train", "gan", "--data", "t.csv", "--labels", "t.csv:kind", "--conditional", "--generator", "4",
          "--discriminator", "4", "--epochs", "1", "--out", "run", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        said(generate.command, "run", "--count", "3", "--label", "y", "--out", "s.csv")
        assert list(pd.read_csv("s.csv").columns) == ["a", "b"]
        (tmp_path / "t.csv").unlink(missing_ok=True)  # the run knows them


def test_pictures_are_scaled_as_the_run_was_trained(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(12):
            size = (12, 12) if number % 2 else (16, 8)
            folder = tmp_path / part / ("dark" if number < 6 else "light")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (*size, 3), dtype=np.uint8) + np.uint8(0 if number < 6 else 150)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    pyddl("train", "classifier", "--data", "train", "--test", "test", "--hidden", "4", "--epochs", "20", "--lr", "0.02",
          "--batch-size", "4", "--image-size", "6x5", "--grey", "--out", "run", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    out = said(evaluate.command, "run", "--data", "test")
    assert "test: 12 x 30 uint8 (6 x 5 images), from test" in out and "accuracy       1.0000" in out
    assert said(evaluate.command, "run") == out
    assert "7 x 5" in said(evaluate.command, "run", "--data", "test", "--image-size", "7x5", check=1)
    assert "image_size and grey are for pictures" in said(encode.command, "run", "--data", "digits", "--grey", check=1)
