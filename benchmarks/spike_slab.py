"""What is a spike-and-slab machine good for? Exact likelihoods and features of colour patches, and what a step costs.

`likelihood`: 8 x 8 patches of CIFAR-10, ten of each image, the mean removed and whitened by PCA to some components:
mean log-density of patches of other images, in nats, exact, of a machine in form mu beside a full Gaussian, mixtures of
Gaussians (scikit-learn) and Gaussian RBMs with as many hidden units, trained alike (PCD-1 of 256 chains, batch 256,
Adam, 48 epochs; the RBM's variances are learned). A seed draws patches and trains.

`features`: spike probabilities of a plain machine at every second pixel, averaged over four quarters of an image, and
logistic regression on them, beside the same on raw pixels; its strength is chosen on a fifth of the training images.

`step`: a gradient and an update against those of the Bernoulli RBM with as many weights, one thread, in turn.

Images are the first 4000 of CIFAR-10, of which 3200 train and 800 test; size quick makes some up.

    python -m benchmarks.spike_slab [--size quick|node|cluster] [--part likelihood|features|step] [--components N]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.data import ArraySource, find, load
from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.models import RBM, Model, SpikeSlabRBM
from pyddl.optim import SGD
from pyddl.train import Trainer
from pyddl.train.crew import Crew
from pyddl.train.plots import draw_pictures

__all__ = ["features", "likelihoods", "main", "step_costs"]

SIDE, EACH, SHARE = 8, 10, 0.8  # of a patch, patches of an image, training images
RATES = {30: 0.01, 60: 0.01, 192: 0.003}
RECIPE: dict[str, Any] = {"strategy": "local", "optimizer": "adam", "schedule": "linear", "batch_size": 256}
CHAINS = {"chain": "pcd", "chains": 256}
PICTURED = 12  # of each kind
PARTS = ("likelihood", "features", "step")
SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"images": 40, "components": (6,), "units": (3,), "epochs": 2, "seeds": 1, "spikes": 8, "stride": 12,
              "hidden": (16,), "rounds": 2, "seconds": 0.02},
    "node": {"images": 4000, "components": (30, 60, 192), "units": (6, 12), "epochs": 48, "seeds": 5, "spikes": 256,
             "stride": 2, "hidden": (250, 500), "rounds": 9, "seconds": 0.2},
}
SETTINGS["cluster"] = SETTINGS["node"]


def images(count: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Images (n, 3, 32, 32), labels, and what they are."""
    if count < 1000 or find("cifar10") is None:
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (count, 3, 32, 32)).astype(np.float32), np.arange(count) % 2, "noise"
    source = load("cifar10")
    labels = np.empty(len(source), dtype=np.int64)
    source.read_labels(np.arange(len(source)), labels)
    rows = np.asarray(source)[:count].reshape(-1, 3, 32, 32) * 255
    return rows, labels[: len(rows)], f"the first {len(rows)} images of CIFAR-10"


def patches(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some of each image: (n EACH, 3 SIDE SIDE), float64."""
    count, drawn = len(pictures), []
    for _ in range(EACH):
        y, x = (rng.integers(0, 33 - SIDE, count) for _ in range(2))
        drawn += [pictures[i, :, y[i] : y[i] + SIDE, x[i] : x[i] + SIDE].ravel() for i in range(count)]
    return np.array(drawn, dtype=np.float64)


class Whitening:
    """The mean removed, and the first components of PCA divided by their standard deviations."""

    def __init__(self, rows: np.ndarray, components: int):
        self.mean = rows.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((rows - self.mean).T))
        order = np.argsort(-values)[:components]
        self.forth, self.back = vectors[:, order] / np.sqrt(values[order]), vectors[:, order] * np.sqrt(values[order])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) @ self.forth).astype(np.float32)

    def undone(self, rows: np.ndarray) -> np.ndarray:
        """Patches without their mean."""
        return rows @ self.back.T


# ---- likelihood


def trained(model: Model, rows: np.ndarray, seed: int, **options: Any) -> Any:
    return Trainer(model, seed=seed, **{**RECIPE, **options}).fit(rows)


def densities(components: int, units: Sequence[int], epochs: int) -> dict[str, Callable[..., tuple[float, Any]]]:
    """Each: (training patches, test patches, seed) to mean log-density of the test patches, and what has it."""
    from sklearn.mixture import GaussianMixture

    def mixture(count: int, kind: str) -> Callable[..., tuple[float, Any]]:
        def of(rows: np.ndarray, test: np.ndarray, seed: int) -> tuple[float, Any]:
            found = GaussianMixture(count, covariance_type=kind, random_state=seed, max_iter=100)
            found.fit(rows.astype(np.float64))
            return float(found.score(test.astype(np.float64))), found
        return of

    def machine(make: Callable[[], Any]) -> Callable[..., tuple[float, Any]]:
        def of(rows: np.ndarray, test: np.ndarray, seed: int) -> tuple[float, Any]:
            result = trained(make(), rows, seed, epochs=epochs, learning_rate=RATES.get(components, 0.01))
            found = result.model.measures["likelihood"](result.averaged, result.buffers, ArraySource(test), Crew())
            return found["log_likelihood"], result
        return of

    found = {"full Gaussian": mixture(1, "full"), "4 Gaussians, full": mixture(4, "full"),
             "20 Gaussians, diagonal": mixture(20, "diag")}
    for count in units:
        found[f"Gaussian RBM, {count} units"] = machine(
            lambda count=count: RBM(components, (count,), visible="gaussian", variance="learned", **CHAINS))
    for count in units:
        found[f"mu-ssRBM, {count} spikes"] = machine(
            lambda count=count: SpikeSlabRBM(components, (count,), form="mu", **CHAINS))
    return found


def likelihoods(record: Record, settings: Mapping[str, Any], components: Sequence[int], picture: Path) -> None:
    pictures, _, _ = images(settings["images"])
    training = int(SHARE * len(pictures))
    for size in components:
        lines, samples = [], {}
        values: dict[str, list[float]] = {}
        for seed in range(settings["seeds"]):
            rng = np.random.default_rng(seed)
            rows, test = patches(pictures[:training], rng), patches(pictures[training:], rng)
            whiten = Whitening(rows, size)
            for name, density in densities(size, settings["units"], settings["epochs"]).items():
                begin = time.perf_counter()
                value, found = density(whiten(rows), whiten(test), seed)
                record.add(part="likelihood", components=size, name=name, seed=seed, log_likelihood=value,
                           seconds=time.perf_counter() - begin)
                values.setdefault(name, []).append(value)
                if seed == 0:
                    samples[name] = sampled(found, PICTURED)
        for name, each in values.items():
            lines.append([name, f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}",
                          f"{statistics.median(np.subtract(each, values['full Gaussian'])):+.2f}"])
        harness.show(f"\n{size} components, nats per test patch, {settings['seeds']} seeds")
        harness.show(harness.table(["density", "median", "least and greatest", "above the full Gaussian"], lines))
        last = f"mu-ssRBM, {max(settings['units'])} spikes"
        shown = np.concatenate([whiten.undone(each) for each in (whiten(test[::97])[:PICTURED], samples[last],
                                                                samples["full Gaussian"])])
        most = np.quantile(abs(shown), 0.995)
        draw_pictures(picture.with_name(f"{picture.stem}-{size}.png"),
                      f"above test patches, then samples of a {last} and of a full Gaussian, {size} components",
                      (0.5 + shown / (2 * most)).clip(0, 1), (3, SIDE, SIDE), columns=PICTURED)


def sampled(found: Any, count: int) -> np.ndarray:
    if hasattr(found, "covariances_"):
        return found.sample(count)[0]
    return found.model.sample(found.averaged, found.buffers, count, 0, 300)


# ---- features


def features(record: Record, settings: Mapping[str, Any], picture: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pictures, labels, _ = images(settings["images"])
    training = int(SHARE * len(pictures))

    def accuracy(codes: np.ndarray, strengths: Sequence[float]) -> tuple[float, float]:
        """Of test images, and the strength that did best on the last fifth of the training ones."""
        held = training * 4 // 5

        def score(strength: float, end: int, begin: int, last: int) -> float:
            chain = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
            return chain.fit(codes[:end], labels[:end]).score(codes[begin:last], labels[begin:last])

        best = max(strengths, key=lambda strength: score(strength, held, held, training))
        return score(best, training, training, len(codes)), best

    quick = settings["spikes"] < 100
    lines = []
    raw, strength = accuracy(pictures.reshape(len(pictures), -1), (1e-4,) if quick else (1e-5, 1e-4, 1e-3))
    record.add(part="features", name="raw pixels", accuracy=raw, strength=strength)
    lines.append(["raw pixels", 3 * 32 * 32, f"{100 * raw:.1f} %"])
    for seed in range(1 if quick else 3):
        whiten = Whitening(patches(pictures[:training], np.random.default_rng(seed)), 6 if quick else 60)
        rows = whiten(patches(pictures[:training], np.random.default_rng(seed)))
        model = SpikeSlabRBM(rows.shape[1], (settings["spikes"],))
        result = trained(model, rows, seed, optimizer="sgd", learning_rate=0.02, batch_size=100, clip_norm=5.0,
                         epochs=1 if quick else 15)
        codes = pooled(result, whiten, pictures, settings["stride"])
        found, strength = accuracy(codes, (1e-2,) if quick else (1e-3, 1e-2, 1e-1))
        record.add(part="features", name="spikes", seed=seed, accuracy=found, strength=strength)
        lines.append([f"{settings['spikes']} spikes in four quarters, seed {seed}", codes.shape[1],
                      f"{100 * found:.1f} %"])
        harness.show(" | ".join(map(str, lines[-1])))
        if seed == 0:
            filters = result.model.pictures(result.averaged, result.buffers, rows)["filters"] @ whiten.forth.T
            norms = np.linalg.norm(filters, axis=1)
            shown = filters[np.argsort(-norms)][:50] / (6 * filters.std(axis=1)[np.argsort(-norms)][:50, None])
            draw_pictures(picture, "filters", (0.5 + shown).clip(0, 1), (3, SIDE, SIDE))
    harness.show(harness.table(["logistic regression on", "numbers", "test accuracy"], lines))


def pooled(result: Any, whiten: Whitening, pictures: np.ndarray, stride: int) -> np.ndarray:
    """Mean spike probabilities over four quarters of each image, (n, 4 hidden)."""
    every = np.lib.stride_tricks.sliding_window_view(pictures, (SIDE, SIDE), axis=(2, 3))[:, :, ::stride, ::stride]
    across, means = every.shape[2], []
    half = (across + 1) // 2
    for begin in range(0, len(pictures), 100):
        rows = every[begin : begin + 100].transpose(0, 2, 3, 1, 4, 5)
        codes = result.model.encode(result.averaged, result.buffers, whiten(rows.reshape(-1, 3 * SIDE * SIDE)))
        codes = codes.reshape(len(rows), across, across, -1)
        means.append(np.concatenate([codes[:, y : y + half, x : x + half].mean(axis=(1, 2))
                                     for y in (0, across - half) for x in (0, across - half)], axis=1))
    return np.concatenate(means)


# ---- speed


def stepper(model: Any, rows: np.ndarray) -> Callable[[int], float]:
    """So many gradients and updates; their seconds."""
    parameters, gradients, buffers = model.layout.zeros(), model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 0, Statistics(ArraySource(rows)))
    rule, ranges, step = SGD(1e-6), model.layout.decayed_ranges(), 0

    def steps(count: int) -> float:
        nonlocal step
        begin = time.perf_counter()
        for _ in range(count):
            loss = model.gradient(parameters, gradients, buffers, Batch(rows, step=step))
            rule.update(parameters, gradients, [], ranges, scale=1 / len(rows), step=step)
            step += 1
        if not np.isfinite(loss):
            raise RuntimeError(f"{model.name}: the loss is {loss}")
        return time.perf_counter() - begin

    return steps


def step_costs(record: Record, settings: Mapping[str, Any]) -> None:
    rows, batch, lines = harness.mnist_rows(100)[0], 100, []
    inputs, before = rows.shape[1], _core.threads()
    _core.set_threads(1)
    try:
        for units in settings["hidden"]:
            sides = {"Bernoulli RBM": RBM(inputs, (units,), chains=batch),
                     "plain": SpikeSlabRBM(inputs, (units,), chain="pcd", chains=batch),
                     "plain, pool 2": SpikeSlabRBM(inputs, (units // 2,), pool=2, chain="pcd", chains=batch),
                     "mu": SpikeSlabRBM(inputs, (units,), form="mu", chain="pcd", chains=batch),
                     "mu, pool 2": SpikeSlabRBM(inputs, (units // 2,), pool=2, form="mu", chain="pcd", chains=batch),
                     "mu, scalar": SpikeSlabRBM(inputs, (units,), form="mu", precision="scalar", chain="pcd",
                                                chains=batch)}
            taken = harness.in_turn({name: stepper(model, rows) for name, model in sides.items()},
                                    settings["rounds"], settings["seconds"])
            ratios = {name: taken[name].median / taken["Bernoulli RBM"].median for name in sides}
            record.add(taken, part="step", weights=inputs * units, batch=batch, ratios=ratios)
            lines.append([f"{inputs} x {units}", f"{1e3 * taken['Bernoulli RBM'].median:.1f} ms",
                          *(f"{ratios[name]:.2f}" for name in list(sides)[1:])])
    finally:
        _core.set_threads(before)
    harness.show(harness.table(["weights", "Bernoulli RBM", *(f"{name}, times" for name in list(sides)[1:])], lines))


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, part={"choices": PARTS, "help": "by default all"},
                                components={"type": int, "help": "of PCA, for the likelihoods; by default all"})
    settings = SETTINGS[options.size]
    question = "spike_slab" + (f"-{options.part}" if options.part else "")
    record = Record(question, options.size, options.out, images=images(settings["images"])[2],
                    epochs=settings["epochs"], rates=RATES, recipe=RECIPE)
    if options.part in (None, "likelihood"):
        components = settings["components"] if options.components is None else (options.components,)
        likelihoods(record, settings, components, record.path.with_suffix(".png"))
    if options.part in (None, "features"):
        features(record, settings, record.path.with_suffix(".png"))
    if options.part in (None, "step"):
        step_costs(record, settings)
    return record


if __name__ == "__main__":
    main()
