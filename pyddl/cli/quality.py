"""What ``pyddl evaluate RUN --quality`` asks: a classifier of the run's rows, samples, and their figures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.download import places
from pyddl.data.named import NAMED
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models.classifier import check_classes
from pyddl.models.protocol import name_of
from pyddl.models.table import Trained
from pyddl.train.crew import Crew
from pyddl.train.evaluation import evaluate

__all__ = ["Judge"]

SEED = 0  # of the samples
NEXT_TO = 10  # samples in the picture
WORTH = 1 / 3  # of what one answer for all rows gets wrong, a classifier of some use gets right
TO_TRAIN = "--hidden 256,64 --epochs 4 --batch-size 200 --lr 0.002 --schedule cosine"


class Judge:
    """A trained model's samples, and the held-out and training rows that they are compared with. Making one checks all
    that is given.

    Raises
    ------
    DataError, ParameterError, ShapeError
        The model generates nothing; there is no classifier of such rows, or no file of centres.
    """

    def __init__(self, trained: Any, held_out: Any, training: Any, data: str | None, *, quality: bool,
                 classifier: str | None, modes: str | None, deviation: float | None):
        if not hasattr(trained.model, "sample"):
            raise DataError(f"the model in {trained.path}, {name_of(trained.model)}, generates nothing: there are no "
                            "samples to judge")
        self.trained, self.held_out, self.training, self.given = trained, held_out, training, classifier
        self.data = data or trained.config.get("data") or held_out.name
        self.accuracy: float | None = None
        self.classifier = self._classifier() if quality else None
        self.samples = np.empty((0, held_out.features), dtype=np.float32)
        self.centres, self.deviation = None, deviation
        if modes is not None:
            self.centres = _centres(modes, held_out.features)
            if deviation is None:
                raise ParameterError("--modes are centres; give the deviation of rows about them, too: --deviation")
            _check.number("deviation", deviation, above=0)

    def figures(self, crew: Crew) -> dict[str, Any]:
        """By their names. Collective."""
        from pyddl.train import quality as measures

        trained, run = self.trained, self.classifier
        found: dict[str, Any] = {}
        self.samples = trained.model.sample(trained.averaged, trained.buffers, len(self.held_out), SEED)
        if self.centres is not None and self.deviation is not None:
            found |= measures.modes(self.samples, self.centres, self.deviation)
        if run is not None:
            found |= measures.quality(self.samples, self.held_out, self.training, Trained.of(run), crew)
            if getattr(trained.model, "conditional", False):
                found["recognised"] = measures.recognised(Trained.of(run), self.samples, trained.model.classes)
            weights = (run.path / "model.safetensors").read_bytes()
            if self.accuracy is not None:
                found["classifier_accuracy"] = self.accuracy
            found["classifier"] = f"{run.path}, sha256 {hashlib.sha256(weights).hexdigest()[:16]}"
        return found

    def draw(self) -> list[Path]:
        """Some samples over the training rows that are nearest to them."""
        from pyddl.train.plots import draw_lines
        from pyddl.train.quality import nearest

        if self.training is None:
            return []
        some = self.samples[:NEXT_TO]
        folder = self.trained.path / "plots"
        folder.mkdir(exist_ok=True)
        lines = {"sample": some, "nearest row": nearest(some, self.training)}
        return [draw_lines(folder / "nearest.png", lines, self.held_out.image_shape)]

    def _classifier(self) -> Any:
        """The run of a classifier: the one that is given, or the one beside the data."""
        from pyddl.train.run import load_run

        name = str(self.data).split(":")[0]
        beside = [place / "classifier" for place in (places(name) if name in NAMED else [Path(name).parent])]
        if name in NAMED and len(beside) > 1:
            beside = [beside[0], *beside[2:]]  # not in the folder of all sets
        path = self.given or next((each for each in beside if (each / "summary.json").exists()), None)
        if path is None:
            looked = (f"there is no classifier of {name}, in whose features samples are compared: looked for "
                      f"{', '.join(map(str, beside))}. ")
            if self.held_out.label_type is None:
                raise DataError(f"{looked}These rows have no labels to train one on: name a classifier of such rows "
                                "with --classifier, give --labels, or leave --quality out and compare rows as they are "
                                "(--measure energy_distance) or count modes of a known mixture (--modes, --deviation)")
            labels = f" --labels {self.trained.config['labels']}" if self.trained.config.get("labels") else ""
            raise DataError(f"{looked}Train one, pyddl train classifier --data {self.data}{labels} {TO_TRAIN} --out "
                            f"{beside[0]}, or name one with --classifier")
        run: Any = load_run(path)
        if not hasattr(run.model, "features"):
            raise ParameterError(f"the model in {path} is {name_of(run.model)}; expected a classifier")
        if run.model.inputs != self.held_out.features:
            raise ShapeError(f"the classifier in {path} is of rows of {run.model.inputs} features; these have "
                             f"{self.held_out.features}")
        if run.as_trained(self.held_out) is not self.held_out:
            raise DataError(f"the classifier in {path} was trained on the same columns in another order; expected "
                            f"{', '.join(self.held_out.columns)}: train it again on {self.data}")
        self.accuracy = self._accuracy(run)
        return run

    def _accuracy(self, run: Any) -> float | None:
        """The share of held-out rows that a classifier gets right, or, where they have no labels of its classes, what
        its own run found; None where neither is known.

        Raises
        ------
        ParameterError
            It gets hardly more right than it would with one answer for all, so that its features say nothing.
        """
        model, least = run.model, 1 / run.model.classes
        try:
            check_classes(self.held_out, model.classes, model.class_names)
            known = self.held_out.label_type is not None
        except DataError:
            known = False
        if known:
            found = evaluate(model, run.averaged, run.buffers, self.held_out)["accuracy"]
            counts = np.bincount(np.asarray(self.held_out.labels, dtype=np.int64).ravel())
            least = counts.max() / counts.sum()
        else:
            found = run.summary.get("test_accuracy")
        if found is not None and found < least + WORTH * (1 - least):
            raise ParameterError(f"the classifier in {run.path} gets {found:.1%} of the rows right, where one answer "
                                 f"for all would get {least:.1%}: its features say nothing of such rows; train it "
                                 f"longer ({TO_TRAIN}), or name another one with --classifier")
        return found


def _centres(file: str, features: int) -> np.ndarray:
    try:
        found = np.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as a .npy file of centres: {error}") from None
    if found.ndim != 2 or found.shape[1] != features:
        raise ShapeError(f"{file} has shape {found.shape}; expected (modes, {features})")
    return found.astype(np.float64)
