"""How likely does a variational autoencoder find test images of MNIST, beside the one of PyTorch's examples?

784-400-20, grey values as probabilities, batches of 128, Adam at 0.001, 25 epochs: minus the test loss is the evidence
lower bound; the importance-weighted bound of 500 samples is nearer to the log-likelihood. PyTorch's weights are
evaluated by pyddl too, which must agree with its own figure but for the draw. Size quick takes scikit-learn's digits.

    python -m benchmarks.variational [--size quick|node|cluster] [--seeds N] [--peer torch|none]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.data import find, load
from pyddl.models import VAE
from pyddl.models.importance import likelihood
from pyddl.train import Trainer
from pyddl.train.crew import Crew
from pyddl.train.evaluation import evaluate

__all__ = ["main"]

RATE, BATCH = 1e-3, 128
SETTINGS = {  # data, hidden, epochs, seeds
    "quick": ("digits", (32, 4), 3, 1),
    "node": ("mnist", (400, 20), 25, 1),
    "cluster": ("mnist", (400, 20), 25, 3),
}
AGREES = 0.5  # nats: what two draws of the test images' codes may differ by
TENSORS = ["encoder.0", "means", "log_variances", "decoder.0", "decoder.1"]  # of PyTorch's example, by their place


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__, given, seeds={"type": int, "help": "so many, from 0 on"},
        peer={"choices": ("torch", "none"), "default": "torch" if harness.TORCH.exists() else "none"})
    name, hidden, epochs, seeds = SETTINGS[options.size]
    seeds = options.seeds or seeds
    if name == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    source = load(name)
    test = source.test or source
    model = VAE(source.features, hidden)
    record = Record("variational", options.size, options.out, data=name, hidden=hidden, epochs=epochs, rate=RATE,
                    batch=BATCH, threads=_core.threads())
    rows = []
    for who in ("pyddl", *(["PyTorch"] if options.peer == "torch" else [])):
        found = []
        for seed in range(seeds):
            begin = time.perf_counter()
            if who == "pyddl":
                result = Trainer(model, strategy="local", learning_rate=RATE, epochs=epochs, batch_size=BATCH,
                                 seed=seed).fit(source)
                parameters = result.parameters
            else:
                parameters, own = _of_torch(model, np.asarray(source), np.asarray(test), hidden, epochs, seed)
            seconds = time.perf_counter() - begin
            scores = evaluate(model, parameters, model.buffers.zeros(), test)
            if who == "PyTorch" and abs(own - scores["loss"]) > AGREES:
                raise SystemExit(f"PyTorch's test loss is {own:.2f}, and pyddl finds {scores['loss']:.2f} with its "
                                 "weights: the two do not compute the same")
            scores |= likelihood(model, parameters, model.buffers.zeros(), test, Crew())
            record.add(name=who, seed=seed, seconds=seconds, **scores)
            harness.show(f"{who}, seed {seed}: ELBO {scores['elbo']:.2f}, divergence {scores['kl']:.2f}, bound of 500 "
                         f"samples {scores['iwae_500']:.2f}, {seconds:.0f} s of training")
            found.append(scores)
        rows.append([who, *(_middle([each[key] for each in found]) for key in ("elbo", "kl", "iwae_500"))])
    harness.show(harness.table(["", "ELBO", "divergence", "bound of 500 samples"], rows))
    return record


def _middle(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}, {max(values):.2f})"


def _of_torch(model: VAE, rows: np.ndarray, test: np.ndarray, hidden: tuple[int, ...], epochs: int,
              seed: int) -> tuple[np.ndarray, float]:
    """Parameters that PyTorch's example has learnt, in the model's layout, and its own test loss."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("rows", rows), ("test", test)):
            np.save(Path(folder) / f"{name}.npy", array)
        with harness.python_peer("PyTorch", "torch_vae", python=harness.TORCH) as peer:
            loss, = peer.call("train", folder=folder, hidden=hidden, epochs=epochs, batch=BATCH, rate=RATE, seed=seed)
        tensors = dict(np.load(Path(folder) / "weights.npz"))
    parameters = model.layout.zeros()
    views = model.layout.views(parameters)
    for kind in ("weight", "bias"):
        encoder, means, log_variances, *decoder = (tensors[f"{name}.{kind}"] for name in TENSORS)
        for place, values in zip(("encoder.0", "encoder.1", "decoder.0", "decoder.1"),
                                 (encoder, np.concatenate([means, log_variances]), *decoder), strict=True):
            views[f"{place}.{kind}"][:] = values
    return parameters, loss


if __name__ == "__main__":
    main()
