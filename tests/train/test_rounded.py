"""Parameters that the optimizer keeps in bfloat16 too: never stale, whoever else changes the parameters."""

import numpy as np
import pytest

from pyddl import _core
from pyddl.models import Autoencoder
from pyddl.train import Trainer

pytestmark = pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)


class Plain(Autoencoder):
    """Rounds its weights itself."""

    def __init__(self):
        super().__init__(20, hidden=(16, 4), dtype="bfloat16")
        self.takes_rounded = False


class Counting(Autoencoder):
    """Counts the gradients for which it was given its weights."""

    def __init__(self):
        super().__init__(20, hidden=(16, 4), dtype="bfloat16")
        self.given = []

    def gradient(self, parameters, gradients, buffers, batch):
        self.given.append(batch.rounded is not None)
        return super().gradient(parameters, gradients, buffers, batch)


def train(model, out=None, **options):
    options = {"batch_size": 50 * options.pop("ranks", 1), "epochs": 3, "seed": 4, **options}
    return Trainer(model, out=out and str(out), **options).fit(ROWS, ROWS[:50])


@pytest.mark.mpi
@pytest.mark.parametrize(("options", "given"), [
    ({"strategy": "local"}, True),
    ({"strategy": "allreduce"}, True),
    ({"strategy": "allreduce", "optimizer": "momentum", "learning_rate": 1e-3, "clip_norm": 0.5}, True),
    ({"strategy": "allreduce", "shard_optimizer": True}, False),
    ({"strategy": "averaging", "period": 2}, False),
    ({"strategy": "elastic", "tau": 2}, False),
])
def test_training_has_the_bits_of_a_model_that_rounds_by_itself(world, options, given):
    if world.size == 1 and options["strategy"] in ("averaging", "elastic"):
        pytest.skip("needs two ranks")
    model = Counting()
    got, expected = train(model, ranks=world.size, **options), train(Plain(), ranks=world.size, **options)
    assert np.array_equal(got.parameters, expected.parameters)
    assert [line["test_loss"] for line in got.metrics] == [line["test_loss"] for line in expected.metrics]
    assert model.given == [given and step > 0 for step in range(len(model.given))]  # before the first update none exist


def test_a_resumed_run_begins_with_what_the_checkpoint_holds(tmp_path):
    whole, model = train(Plain()), Counting()
    train(Plain(), tmp_path / "run", epochs=2)
    resumed = train(model, tmp_path / "run", resume=True)
    assert np.array_equal(resumed.parameters, whole.parameters)
    assert model.given[:2] == [False, True]


def test_float32_is_never_given_any():
    model = Counting()
    Autoencoder.__init__(model, 20, hidden=(16, 4))
    train(model)
    assert model.given and not any(model.given)
