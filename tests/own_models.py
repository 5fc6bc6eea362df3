"""Models of a user's own, in NumPy, and what makes them known: rows in the tables, and their options.

``with known():`` makes them known for a while; a program of its own calls `register`.
"""

import contextlib

import numpy as np

from pyddl import estimators, models, options
from pyddl.estimators import Classifies, Encodes, Regresses, Scores
from pyddl.estimators.from_table import from_table
from pyddl.layout import Layout, Slice


class Plain:
    """What the models below share: a layout without buffers, and options."""

    buffers = Layout()

    def initialise(self, parameters, buffers, seed, data):
        for view in self.layout.views(parameters).values():
            view[:] = 0.3 * np.random.default_rng(seed).normal(size=view.shape)


class Tiny(Plain):
    """Two layers: rows to ``width`` codes and back. Loss: squared error, summed over features."""

    name = "tiny"

    def __init__(self, inputs, width=3, activation="linear"):
        self.inputs, self.width, self.activation = inputs, width, activation
        self.layout = Layout([Slice("in", (inputs, width)), Slice("out", (width, inputs))])
        self.measures = {"largest": self._largest}

    def options(self):
        return {"inputs": self.inputs, "width": self.width, "activation": self.activation}

    def gradient(self, parameters, gradients, buffers, batch):
        w, g = self.layout.views(parameters), self.layout.views(gradients)
        codes = self.encode(parameters, buffers, batch.rows)
        delta = 2 * (codes @ w["out"] - batch.rows)
        back = delta @ w["out"].T * (1 - codes**2 if self.activation == "tanh" else 1)
        g["out"][:], g["in"][:] = codes.T @ delta, batch.rows.T @ back
        return float(np.square(delta / 2).sum())

    def evaluate(self, parameters, buffers, batch):
        error = float(np.square(self.reconstruct(parameters, buffers, batch.rows) - batch.rows).sum(dtype=np.float64))
        return {"loss": error, "squared_error": error, "rows_seen": float(len(batch))}

    def encode(self, parameters, buffers, rows):
        codes = rows @ self.layout.views(parameters)["in"]
        return np.tanh(codes) if self.activation == "tanh" else codes

    def reconstruct(self, parameters, buffers, rows):
        return self.encode(parameters, buffers, rows) @ self.layout.views(parameters)["out"]

    def _largest(self, parameters, buffers, source, crew):
        """The largest error of a row, and how many rows each rank has looked at."""
        begin, end = crew.part(len(source))
        rows = np.empty((end - begin, source.features), dtype=np.float32)
        source.read(np.arange(begin, end), rows)
        errors = np.square(self.reconstruct(parameters, buffers, rows) - rows).sum(axis=1)
        all_errors = np.concatenate(crew.gather(errors))
        return {"largest_error": float(all_errors.max()), "of_rows": float(len(all_errors))}


class Labelled(Plain):
    """A weight matrix on the rows and a constant; what is right, labels say."""

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs, self._labels = inputs, outputs, None
        self.layout = Layout([Slice("weight", (inputs + 1, outputs))])

    @classmethod
    def for_data(cls, data):
        made = cls(data.features, cls.outputs_of(data))
        made._labels = data.labels
        return made

    def options(self):
        return {"inputs": self.inputs, "outputs": self.outputs}

    def gradient(self, parameters, gradients, buffers, batch):
        labels = self._labels[batch.index] if batch.labels is None else batch.labels
        loss, delta = self.loss(self._scores(parameters, batch.rows), labels)
        self.layout.views(gradients)["weight"][:] = self._ones(batch.rows).T @ delta
        return float(loss)

    def _ones(self, rows):
        return np.column_stack([rows, np.ones(len(rows))])

    def _scores(self, parameters, rows):
        return self._ones(rows) @ self.layout.views(parameters)["weight"]


class LeastSquares(Labelled):
    name = "least_squares"

    @staticmethod
    def outputs_of(data):
        return 1 if data.labels.ndim == 1 else data.labels.shape[1]

    def loss(self, scores, labels):
        delta = scores - labels.reshape(scores.shape)
        return np.square(delta).sum() / 2, delta

    def predict(self, parameters, buffers, rows):
        return self._scores(parameters, rows)


class Softmax(Labelled):
    name = "softmax"

    @staticmethod
    def outputs_of(data):
        return int(data.labels.max()) + 1 if data.classes is None else len(data.classes)

    def loss(self, scores, labels):
        p, right = self._softmax(scores), np.arange(len(labels))
        loss = -np.log(p[right, labels]).sum()
        p[right, labels] -= 1
        return loss, p

    def probabilities(self, parameters, buffers, rows):
        return self._softmax(self._scores(parameters, rows))

    @staticmethod
    def _softmax(scores):
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


def register():
    models.TABLE["tiny"] = models.Entry(__name__, "Tiny", "Two layers, for tests.",
                                        {"activation": "tanh", "epochs": 4}, simulated={"width": 2})
    models.TABLE["least_squares"] = models.Entry(__name__, "LeastSquares", "Least squares, for tests.",
                                                 {"learning_rate": 0.03})
    models.TABLE["softmax"] = models.Entry(__name__, "Softmax", "Softmax regression, for tests.",
                                           {"learning_rate": 0.1})
    estimators.TABLE["tiny"] = (__name__, "TinyCoder")
    options.add(options.Option("width", "int", 3, "model", "number of codes", at_least=1, trainer=False, of=("tiny",)))
    options.share("tiny", "activation")


@contextlib.contextmanager
def known():
    tables = [models.TABLE, estimators.TABLE, options._BY_NAME]
    before, order = [dict(table) for table in tables], list(options.TABLE)
    register()
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)
        options.TABLE[:] = order


with known():

    @from_table("tiny")
    class TinyCoder(Encodes, Scores):
        """{parameters}"""

    @from_table("least_squares")
    class LinearRegressor(Regresses):
        """{parameters}"""

    @from_table("softmax")
    class SoftmaxClassifier(Classifies):
        """{parameters}"""
