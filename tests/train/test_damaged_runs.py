"""Damaged run directories: a named error, or what the files say; never half of it, never another exception."""

import functools
import logging

import numpy as np
import pytest
from damage import damage, damage_text
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl.comm.transport import Alone
from pyddl.errors import CheckpointError, DataError, ParameterError
from pyddl.models import Autoencoder
from pyddl.train import Trainer, load_run
from pyddl.train.checkpoint import Checkpoints

ROWS = np.random.default_rng(5).random((20, 6), dtype=np.float32)
JSON = '{}[]",:0123456789.-eE truefalsn'
TOML = JSON + "=#'\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of one checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "run"
    model = Autoencoder(6, (4, 2))
    config = {name: value for name, value in model.options().items() if name != "inputs"}
    Trainer(model, out=str(out), epochs=1, batch_size=10, config=config).fit(ROWS)
    return out


def damaged(random, content, pieces):
    return damage(random, content) if random.random() < 0.5 else (
        damage_text(random, content.decode("latin-1"), pieces).encode("latin-1"))


class Swapped:
    """One file of a folder with other content, until the block ends."""

    def __init__(self, path):
        self.path, self.content = path, path.read_bytes()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.path.write_bytes(self.content)


@functools.cache
def intact(whole):
    return Checkpoints(whole, {"replicas": 1}).newest(Alone())


def check_checkpoint(whole, random):
    checkpoint, = (whole / "checkpoints").glob("step-*")
    files = sorted(checkpoint.iterdir())
    expected = intact(whole)
    with Swapped(files[random.integers(len(files))]) as file:
        file.path.write_bytes(damaged(random, file.content, JSON))
        try:
            found = Checkpoints(whole, {"replicas": 1}).newest(Alone())
        except (CheckpointError, DataError) as error:
            assert str(checkpoint.parent) in str(error)
            return
    assert found.books == expected.books
    assert all(np.array_equal(found.tensors[name], x) for name, x in expected.tensors.items())


def check_run(whole, random):
    name = str(random.choice(["model.safetensors", "config.toml", "summary.json", "metrics.jsonl"]))
    with Swapped(whole / name) as file:
        content = file.content
        if name == "model.safetensors" and random.random() < 0.7:  # its header, of the length that it says
            end = 8 + int.from_bytes(content[:8], "little")
            text = damage_text(random, content[8:end].decode(), JSON + "BFIUO1248").encode()[: end - 8]
            content = content[:8] + text.ljust(end - 8) + content[end:]
        else:
            content = damaged(random, content, TOML)
        file.path.write_bytes(content)
        try:
            run = load_run(whole)
        except DataError as error:
            assert name in str(error)
            return
    assert run.parameters.dtype == np.float32 and run.parameters.shape == (run.model.layout.size,)
    assert isinstance(run.config, dict) and isinstance(run.summary, dict)
    assert all(isinstance(line, dict) for line in run.metrics)


CONFIG = """model = "autoencoder"
data = "digits"
hidden = [64, 16]
loss = "bce"
optimizer = "adam"
learning_rate = 0.001
epochs = 3
batch_size = 32
reproducible = false
"""


def check_config(folder, random):
    from pyddl.cli.train import _settings

    path = folder / "config.toml"
    path.write_bytes(damaged(random, CONFIG.encode(), TOML))
    try:
        found = _settings(None, str(path), {})
    except (DataError, ParameterError) as error:
        assert "config.toml" in str(error) or isinstance(error, ParameterError)
        return
    assert found["model"] == "autoencoder" and found["epochs"] >= 1


CHECKS = {"checkpoint": check_checkpoint, "run": check_run, "config": check_config}


@pytest.mark.filterwarnings("ignore:invalid escape")
@pytest.mark.parametrize("what", CHECKS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_damage_is_named(whole, what, seed):
    CHECKS[what](whole.parent if what == "config" else whole, np.random.default_rng(seed))


@pytest.mark.long
@pytest.mark.parametrize("what", CHECKS)
def test_damage_of_100000_files_is_named(whole, what, caplog):
    caplog.set_level(logging.CRITICAL, logger="pyddl")  # a line for each would fill the memory
    random = np.random.default_rng(6)
    for _ in range(100_000):
        CHECKS[what](whole.parent if what == "config" else whole, random)
