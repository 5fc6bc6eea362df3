"""A model and the trainer as one estimator: training, and what it leaves. What else it can do, roles say."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from pyddl import _check, effects, models, options
from pyddl.data import ArraySource, Source
from pyddl.data.joined import reach, reaches_beyond, scaled
from pyddl.data.labels import Labels
from pyddl.errors import DataError
from pyddl.estimators.rows import chunks
from pyddl.estimators.transformer import Conventions, same
from pyddl.estimators.warned import warn

if TYPE_CHECKING:
    from pyddl.train.trainer import Result, Trainer

__all__ = ["Estimator"]

Self = TypeVar("Self", bound="Estimator")


class Estimator(Conventions):
    """A model and the trainer as one scikit-learn estimator. A subclass has roles, and is made by `from_table`."""

    result_: Result
    seed_: int
    _run: str | None = None  # the run directory that `load` read, until training goes on
    _model: ClassVar[str] = ""  # its public name
    no_options: ClassVar[tuple[str, ...]] = ()  # of the table, which its constructor does not have

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    @property
    def model_(self) -> Any:
        """The model trained, one of `pyddl.models`."""
        return self.result_.model

    @property
    def parameters_(self) -> dict[str, np.ndarray]:
        """The trained parameters by their names, float32."""
        return self.model_.layout.views(self.result_.averaged)

    @property
    def metrics_(self) -> list[dict[str, Any]]:
        """A line per epoch, as in ``metrics.jsonl``."""
        return self.result_.metrics

    @property
    def loss_curve_(self) -> list[float]:
        """Training loss of each epoch."""
        return [line["train_loss"] for line in self.metrics_]

    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Train from the start. Collective: every rank of the world calls it with the same X.

        Parameters
        ----------
        X : array_like of shape (rows, features), or Source
            All rows, also on many ranks. Larger data come as a source of `pyddl.data`.
        y : array_like of shape (rows,)
            Labels, for classifiers and regressors: see there. Others ignore it.

        Returns
        -------
        self

        Raises
        ------
        ParameterError, ShapeError, DataError
            On every rank: a value is out of range, X or y is unfit, or ranks were given different ones.
        NotFiniteError
            Training diverged.
        """
        self._train(X, y, again=False)
        return self

    def partial_fit(self: Self, X: Any, y: Any = None) -> Self:
        """Train for one more pass over X, from where the last call ended, optimizer state included. Collective.

        The first call begins like `fit`. E calls with one X do what `fit` does with ``epochs=E``, as long as no
        schedule of the learning rate depends on the end. ``validation`` and ``patience`` are of no effect.

        Parameters
        ----------
        X : array_like of shape (rows, features), or Source
        y : as in `fit`

        Returns
        -------
        self
        """
        self._train(X, y, again=True)
        return self

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a run directory, which `pyddl.load` and the command line read. Local.

        Parameters
        ----------
        path : str or Path
        overwrite : bool, default=False
            Replace a run that is there.

        Raises
        ------
        ParameterError
            There is a run already, or the directory cannot be written to.
        """
        from pyddl.models.protocol import name_of
        from pyddl.train.run import ROWS, RunDirectory, write_model

        self._check_fitted()
        result = self.result_
        given: dict[str, Any] = {}
        for name in self.get_params():
            option = options.named("seed" if name == "random_state" else name) if name != "verbose" else None
            if option is not None and option.kind != "run":
                given[option.name] = self.seed_ if option.name == "seed" else option.check(self._value_of(option))
        names, classes = getattr(self, "feature_names_in_", None), getattr(self, "classes_", None)
        rows = {"columns": None if names is None else names.tolist(), "image_shape": self._image_shape,
                "scaling": self._scaling and self._scaling.record(),
                "classes": None if classes is None else classes.tolist()}
        cure = "say overwrite=True to replace it, or choose another path"
        with contextlib.closing(RunDirectory(path, overwrite=overwrite, cure=cure)) as directory:
            directory.config({"model": name_of(result.model), **given,
                              ROWS: {name: value for name, value in rows.items() if value is not None}})
            directory.rewrite_metrics(result.metrics)
            write_model(path, result.model, result.parameters, result.averaged, result.buffers)
            directory.summary(result.summary)

    def __sklearn_clone__(self: Self) -> Self:
        """A new one with the same parameters, not fitted; estimators that are encoders stay as they are, fitted."""
        from sklearn.base import clone

        params = {name: value if isinstance(value, Estimator) else clone(value, safe=False)
                  for name, value in self.get_params().items()}
        copy = type(self)(**params)
        if "_sklearn_output_config" in vars(self):
            vars(copy)["_sklearn_output_config"] = dict(vars(self)["_sklearn_output_config"])
        return copy

    def _train(self, X: Any, y: Any, *, again: bool) -> None:
        with self._as_before_on_failure():
            self._learn(X, y, again=again)

    @np.errstate(under="ignore")
    def _learn(self, X: Any, y: Any, *, again: bool) -> None:
        from pyddl.comm.world import world
        from pyddl.train.agreement import FLOAT32_INSTEAD, agreement, dtype_of_all, require_same
        from pyddl.train.run import load_run

        here = world()
        wanted = getattr(self, "dtype", "float32")
        dtype = dtype_of_all(here.transport, wanted)
        if dtype != wanted and here.rank == 0:
            warn(FLOAT32_INSTEAD)
        start = self.result_ if again and self.__sklearn_is_fitted__() else None
        with agreement(here.transport):  # what one rank refuses, all refuse
            rows = self._rows(X, first=start is None)
            if start is None:
                rows = self._as_for_encoder(rows)
            source = self._source(rows, y, first=start is None)
            model = self._new_model(source, dtype) if start is None else start.model
            source = self._in_range(model, rows, source, says=here.rank == 0)
            seed = _seed(self.random_state) if start is None else self.seed_  # type: ignore[attr-defined]
            if start is not None and self._run is not None:
                state, updates = load_run(self._run).optimizer_state()
                start = replace(start, state=state, updates=updates)
        if source is not rows and source.labels is not None:
            require_same(here.transport, "checksums of y", zlib.crc32(np.ascontiguousarray(source.labels).data),
                         cure="Every rank needs all rows and their labels, the same everywhere")
        if start is not None and self._run is not None:
            found = (len(start.state), *sorted(start.updates.items()))
            require_same(here.transport, "optimizer states to go on from", found,
                         cure="Every rank must see the run directory")
        seed = here.transport.gather_objects(seed)[0]
        with agreement(here.transport):
            passes = (len(start.metrics) if start else 0) + 1 if again else None
            trainer = self._trainer(model, seed, passes)
        self.result_ = trainer.fit(source, start=start, passes=passes).whole()  # transform is no collective matter
        self.seed_, self._run = seed, None
        for text in self.result_.summary.get("warnings", ()) if here.rank == 0 else ():
            warn(text)
        self._learned()

    def _source(self, rows: np.ndarray | Source, y: Any, *, first: bool) -> Source:
        """The rows for the trainer, with what a role makes of ``y``; ``first`` where training starts from nothing."""
        return rows if isinstance(rows, Source) else self._array(rows)

    def _array(self, rows: np.ndarray, labels: Any = None) -> ArraySource:
        """A source of these rows, whose columns have the names that `fit` saw."""
        source = ArraySource(rows, name="X", labels=labels)
        if hasattr(self, "feature_names_in_"):
            source.columns = tuple(self.feature_names_in_)
        source.scaling = self._scaling
        return source

    def _learned(self) -> None:
        """A role's own attributes, after training or `load`."""

    def _new_model(self, source: Source, dtype: str) -> Any:
        from pyddl.train.run import ROWS, load_run

        given: dict[str, Any] = {}
        for option in options.of_model(self._model):
            value = self._value_of(option)
            if option.kind == "run" and isinstance(value, Estimator):
                given[option.name] = value
            else:
                given[option.name] = option.check(os.fspath(value) if isinstance(value, os.PathLike) else value)
        if "dtype" in given:
            given["dtype"] = dtype
        own = self._defaults()
        effects.check({**self._of_training(), **given}, lambda name: (own.get(name),))

        def read(path: str | Estimator) -> models.Trained:
            if isinstance(path, Estimator):
                return models.Trained.of(path.result_)
            run = load_run(path)
            if run.as_trained(source) is not source:
                raise DataError(f"{source.name} has the columns of the training data of {path} in another order; "
                                f"expected {', '.join(run.config[ROWS]['columns'])}")
            return models.Trained.of(run)

        given = options.with_runs(given, read)
        return models.for_data(self._model, source, **given)

    def _of_training(self) -> dict[str, Any]:
        """Options of training by their names; of objects in their place the names."""
        found: dict[str, Any] = {}
        strategy, own = getattr(self, "strategy", None), self._defaults()
        for option in options.of_section("training"):
            if option.name not in own or options.stranger(
                    option.name, strategy=strategy if isinstance(strategy, str) else None):
                continue
            value = getattr(self, option.name)
            found[option.name] = getattr(value, "name", value)
        return found

    def _as_for_encoder(self, rows: np.ndarray | Source) -> np.ndarray | Source:
        """``rows`` as the encoder that is taken over wants them: scaled as it was trained on them."""
        from pyddl.train.run import load_run

        for option in options.of_model(self._model):
            encoder = getattr(self, option.name) if option.kind == "run" else None
            if isinstance(encoder, Estimator):
                encoder._check_fitted()
                self._scaling = encoder._scaling
            elif isinstance(encoder, str | os.PathLike):
                self._scaling = load_run(os.fspath(encoder)).scaling
        return rows if self._scaling is None else scaled(rows, self._scaling)

    def _value_of(self, option: options.Option) -> Any:
        """What the constructor was given for an option of the model, in the option's kind."""
        return getattr(self, option.name)

    def _trainer(self, model: Any, seed: int, passes: int | None) -> Trainer:
        """A trainer with this estimator's options; for ``passes`` over the data in all where `partial_fit` asks."""
        from pyddl.train.progress import PlainProgress, Progress
        from pyddl.train.trainer import Trainer

        # Only what differs: options of other strategies than the chosen one have their defaults.
        names = self._defaults()
        given = {option.name: getattr(self, option.name) for option in options.of_section("training", "machine")
                 if option.name in names and not same(getattr(self, option.name), option.default)}
        if passes is not None:
            given |= {"validation": None, "patience": None, "epochs": passes}
        verbose: Any = self.verbose  # type: ignore[attr-defined]
        verbose = _check.integer("verbose", int(verbose) if isinstance(verbose, bool) else verbose, at_least=0)
        return Trainer(model, progress=PlainProgress() if verbose else Progress(), seed=seed, **given)

    def _in_range(self, model: Any, rows: np.ndarray | Source, source: Source, *, says: bool) -> Source:
        """The source of these rows within the range that the model's loss needs."""
        limits = getattr(model, "input_range", None)
        if isinstance(rows, Source) or limits is None:
            return source  # the trainer refuses a source whose values are out of range
        low, high = limits
        if not reaches_beyond(source, low, high):
            return source  # the trainer clips what rounding has put outside
        if says:
            other = ", or choose another loss" if "loss" in self._defaults() else ""
            warn(f"X reaches from {reach(source)}, but this model's loss needs values in [{low:g}, {high:g}]: values "
                 f"outside are clipped. Scale X (MinMaxScaler){other}")
        labels = None if source.labels is None else Labels(source.labels, source.classes)
        return self._array(np.clip(rows, low, high).astype(np.float32), labels)

    @np.errstate(under="ignore")
    def _apply(self, rows: np.ndarray | Source, function: Callable[..., np.ndarray]) -> np.ndarray:
        """``function`` of the model on all rows, in chunks."""
        result = self.result_
        low, high = getattr(result.model, "input_range", None) or (None, None)
        out = np.empty((0, 0), dtype=np.float32)
        for place, part in chunks(rows):
            if low is not None:
                np.clip(part, low, high, out=part)  # as in training
            found = function(result.averaged, result.buffers, part)
            if place.start == 0:
                out = np.empty((rows.shape[0], found.shape[1]), dtype=np.float32)
            out[place] = found
        return out


def _seed(random_state: Any) -> int:
    """A seed from what scikit-learn allows as ``random_state``."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    return _check.integer("random_state", random_state, at_least=0, at_most=2**64 - 1)
