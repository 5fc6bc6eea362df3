"""What all estimators share: parameters from the option table, checks of X, training, and reading a run directory."""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from pyddl import _check, options
from pyddl.data import ArraySource, Source
from pyddl.errors import ParameterError, ShapeError
from pyddl.estimators.rows import check_rows

if TYPE_CHECKING:
    from pyddl.train.trainer import Result, Trainer

__all__ = ["CHUNK", "Estimator", "Transformer", "load"]

CHUNK = 4096  # rows that pass through a model at once: bounds the memory of transform

Self = TypeVar("Self", bound="Transformer")


class Transformer(ABC):
    """scikit-learn's conventions, without scikit-learn: parameters, tags, names of features, containers of output.

    A subclass has an ``__init__`` with keywords that it stores as given, ``fit``, ``transform``, and after ``fit`` the
    attributes ``n_features_in_`` and ``_n_features_out``.
    """

    n_features_in_: int
    feature_names_in_: np.ndarray
    _n_features_out: int
    _output_dtypes: ClassVar[list[str]] = ["float32"]
    _sklearn_auto_wrap_output_keys = frozenset({"transform"})  # what `set_output` concerns

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters given to the constructor, by name; ``deep`` changes nothing here."""
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self: Self, **params: Any) -> Self:
        """Replace parameters; they are checked by the next `fit`.

        Raises
        ------
        ParameterError
            There is no parameter of this name; the nearest is offered.
        """
        names = self._defaults()
        for name in params:
            if name not in names:
                raise ParameterError(f"{type(self).__name__} has no parameter {name!r}{_check.nearest(name, names)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def set_output(self: Self, *, transform: str | None = None) -> Self:
        """Choose what `transform` returns: "default" (ndarray), "pandas" or "polars"; None changes nothing."""
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same X."""
        return self.fit(X, y).transform(X)

    @abstractmethod
    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Learn from X of shape (rows, features)."""

    @abstractmethod
    def transform(self, X: Any) -> Any:
        """What was learned says of X."""

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of `transform`: the class's name in small letters, and a number."""
        self._check_fitted()
        prefix = type(self).__name__.lower()
        return np.asarray([f"{prefix}{i}" for i in range(self._n_features_out)], dtype=object)

    def __repr__(self) -> str:
        changed = (f"{name}={getattr(self, name)!r}" for name, default in self._defaults().items()
                   if not _same(getattr(self, name), default))
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False), input_tags=InputTags(),
                    transformer_tags=TransformerTags(preserves_dtype=list(self._output_dtypes)))

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            from sklearn.exceptions import NotFittedError  # only who makes this mistake pays for the import

            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit first")

    def _rows(self, X: Any, *, first: bool = False) -> np.ndarray | Source:
        """X as rows that can be read, of the width and the names that `fit` saw, or, ``first``, to be remembered."""
        rows, names = check_rows(X)
        if first:
            self.n_features_in_ = int(rows.shape[1])
            if names is not None:
                self.feature_names_in_ = names
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            return rows
        self._check_names(names)
        if rows.shape[1] != self.n_features_in_:
            raise ShapeError(f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                             f"{self.n_features_in_} features as input: give it the columns that fit saw")
        return rows

    def _check_names(self, names: np.ndarray | None) -> None:
        """Wording as in scikit-learn, whose users know it (and whose checks look for it)."""
        fitted = getattr(self, "feature_names_in_", None)
        if fitted is None and names is not None:
            warnings.warn(f"X has feature names, but {type(self).__name__} was fitted without feature names",
                          stacklevel=4)
        elif fitted is not None and names is None:
            warnings.warn(
                f"X does not have valid feature names, but {type(self).__name__} was fitted with feature names",
                stacklevel=4)
        elif fitted is not None and names is not None and not np.array_equal(fitted, names):
            unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
            message = "The feature names should match those that were passed during fit.\n"
            for which, unlike in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
                if unlike:
                    message += f"Feature names {which}:\n" + "".join(f"- {name}\n" for name in unlike[:5])
            if not unseen and not missing:
                message += "Feature names must be in the same order as they were in fit.\n"
            raise ShapeError(message)

    def _contained(self, X: Any, result: np.ndarray) -> Any:
        """``result`` in the container that `set_output` or scikit-learn's configuration asks for."""
        if "sklearn" not in sys.modules:
            return result  # nobody can have asked for another
        from sklearn.utils._set_output import _wrap_data_with_container

        return _wrap_data_with_container("transform", result, X, self)


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(np.all(value == default)))


def chunks(rows: np.ndarray | Source) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive parts of ``rows`` as (place, float32 rows), each valid until the next."""
    source = rows if isinstance(rows, Source) else None
    buffer = np.empty((min(CHUNK, rows.shape[0]), rows.shape[1]), dtype=np.float32)
    for begin in range(0, rows.shape[0], CHUNK):
        place = slice(begin, min(begin + CHUNK, rows.shape[0]))
        part = buffer[: place.stop - begin]
        if source is None:
            part[...] = rows[place]  # type: ignore[index]
        else:
            source.read(np.arange(begin, place.stop, dtype=np.int64), part)
        yield place, part


def from_table(model: type) -> Callable[[type], type]:
    """Class decorator: an ``__init__`` with the options of a model and of training, in the table's order.

    `pyddl.options.TABLE` is the home of names, defaults and help; ``seed`` is called ``random_state`` and is None by
    default, as scikit-learn's users expect. ``{parameters}`` in the docstring becomes the list.
    """
    own = inspect.signature(model).parameters
    chosen = [option for option in options.of_section("model", "training", "machine")
              if option.name != "ranks" and (option.section != "model" or option.name in own)]
    parameters, lines = [], []
    for option in chosen:
        name, default, text = option.name, option.default, option.help
        if name == "seed":
            name, default, text = "random_state", None, "seed of everything random; None draws one, equal on all ranks"
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        kind = {"ints": "sequence of int"}.get(option.kind, option.kind)
        kind = "{" + ", ".join(repr(choice) for choice in option.choices) + "}" if option.choices else kind
        unit = f" Unit: {option.unit}." if option.unit else ""
        lines.append(f"{name} : {kind}, default={default!r}\n    {text[0].upper()}{text[1:]}.{unit}")
    parameters.append(inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0))
    lines.append("verbose : int, default=0\n    Above 0, rank 0 prints a line per epoch.")
    signature = inspect.Signature(parameters)

    def __init__(self: Any, **params: Any) -> None:
        signature.bind(**params)  # a TypeError, as of any function, for an unknown name
        for parameter in parameters:
            setattr(self, parameter.name, params.get(parameter.name, parameter.default))

    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters])

    def decorate(cls: type) -> type:
        __init__.__qualname__ = f"{cls.__qualname__}.__init__"
        cls.__init__ = __init__  # type: ignore[misc]
        cls.__signature__ = signature  # type: ignore[attr-defined]
        cls._model = model  # type: ignore[attr-defined]
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "").replace("{parameters}", "\n".join(lines))
        return cls

    return decorate


class Estimator(Transformer):
    """A model and the trainer as one scikit-learn transformer. A subclass is made by `from_table`."""

    result_: Result
    seed_: int
    _run: str | None = None  # the run directory that `load` read, until training goes on
    _model: ClassVar[Any] = None  # its class

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    @property
    def model_(self) -> Any:
        """The model trained, one of `pyddl.models`."""
        return self.result_.model

    @property
    def parameters_(self) -> dict[str, np.ndarray]:
        """The trained parameters by their names, float32."""
        return self.model_.layout.views(self.result_.parameters)

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
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ParameterError, ShapeError, DataError
            On every rank: a value is out of range, X is unfit, or ranks were given different X.
        NotFiniteError
            Training diverged.
        """
        self._train(X, again=False)  # type: ignore[attr-defined]
        return self

    def partial_fit(self: Self, X: Any, y: Any = None) -> Self:
        """Train for one more pass over X, from where the last call ended, optimizer state included. Collective.

        The first call begins like `fit`. E calls with one X do what `fit` does with ``epochs=E``, as long as no
        schedule of the learning rate depends on the end. ``validation`` and ``patience`` are of no effect.

        Parameters
        ----------
        X : array_like of shape (rows, features), or Source
        y : ignored

        Returns
        -------
        self
        """
        self._train(X, again=True)  # type: ignore[attr-defined]
        return self

    def _train(self, X: Any, *, again: bool) -> None:
        from pyddl.comm.world import world
        from pyddl.train.agreement import FLOAT32_INSTEAD, agreement, dtype_of_all, require_same
        from pyddl.train.run import load_run

        here = world()
        wanted = getattr(self, "dtype", "float32")
        dtype = dtype_of_all(here.transport, wanted)
        if dtype != wanted and here.rank == 0:
            warnings.warn(FLOAT32_INSTEAD, stacklevel=3)
        start = self.result_ if again and self.__sklearn_is_fitted__() else None
        with agreement(here.transport):  # what one rank refuses, all refuse
            rows = self._rows(X, first=start is None)
            model = self._new_model(rows.shape[1], dtype) if start is None else start.model
            source = self._in_range(model, rows, warn=here.rank == 0)
            seed = _seed(self.random_state) if start is None else self.seed_  # type: ignore[attr-defined]
            if start is not None and self._run is not None:
                state, updates = load_run(self._run).optimizer_state()
                start = replace(start, state=state, updates=updates)
        if start is not None and self._run is not None:
            require_same(here.transport, "optimizer states to go on from", (len(start.state), start.updates),
                         cure="Every rank must see the run directory")
        seed = here.transport.gather_objects(seed)[0]
        with agreement(here.transport):
            trainer = self._trainer(model, seed, (len(start.metrics) if start else 0) + 1 if again else None)
        self.result_ = trainer.fit(source, start=start).whole()  # transform is no collective matter
        self.seed_, self._run = seed, None
        self._n_features_out = self._codes()

    def _new_model(self, features: int, dtype: str) -> Any:
        own = {o.name: getattr(self, o.name) for o in options.of_section("model") if o.name in self._defaults()}
        return self._model(features, **{**own, "dtype": dtype} if "dtype" in own else own)

    def _trainer(self, model: Any, seed: int, passes: int | None) -> Trainer:
        """A trainer with this estimator's options; for ``passes`` over the data in all where `partial_fit` asks."""
        from pyddl.train.progress import PlainProgress, Progress
        from pyddl.train.trainer import Trainer

        # Only what differs: options of other strategies than the chosen one have their defaults.
        elsewhere = {"random_state", "verbose", *(o.name for o in options.of_section("model"))}
        given = {name: getattr(self, name) for name, default in self._defaults().items()
                 if name not in elsewhere and not _same(getattr(self, name), default)}
        if passes is not None:
            given |= {"validation": None, "patience": None, "epochs": passes}
        verbose: Any = self.verbose  # type: ignore[attr-defined]
        verbose = _check.integer("verbose", int(verbose) if isinstance(verbose, bool) else verbose, at_least=0)
        return Trainer(model, progress=PlainProgress() if verbose else Progress(), seed=seed, **given)

    @abstractmethod
    def _codes(self) -> int:
        """Columns of `transform`."""

    def _in_range(self, model: Any, rows: np.ndarray | Source, *, warn: bool) -> Source:
        """The rows as a source for the trainer, within the range that the model's loss needs."""
        source = rows if isinstance(rows, Source) else ArraySource(rows, name="X")
        if isinstance(rows, Source) or model.input_range is None:
            return source  # the trainer refuses a source whose values are out of range
        low, high = model.input_range
        if source.minimum >= low and source.maximum <= high:
            return source
        if warn:
            warnings.warn(f"X reaches from {source.minimum:g} to {source.maximum:g}, but loss {model.loss!r} needs "
                          f"values in [{low:g}, {high:g}]: values outside are clipped. Scale X (MinMaxScaler), or use "
                          "loss='mse'", stacklevel=4)
        return ArraySource(np.clip(rows, low, high).astype(np.float32), name="X")

    def _apply(self, rows: np.ndarray | Source, function: Callable[..., np.ndarray], width: int) -> np.ndarray:
        """``function`` of the model on all rows, in chunks."""
        result = self.result_
        low, high = result.model.input_range or (None, None)  # type: ignore[attr-defined]
        out = np.empty((rows.shape[0], width), dtype=np.float32)
        for place, part in chunks(rows):
            if low is not None:
                np.clip(part, low, high, out=part)  # as in training
            out[place] = function(result.parameters, result.buffers, part)
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


def load(run: str | Path) -> Any:
    """The estimator of a run directory, as if it had been fitted here.

    Parameters
    ----------
    run : str or Path
        What was given as ``--out`` to ``pyddl train``.

    Returns
    -------
    Estimator
        Its `partial_fit` goes on with the optimizer state of the run's last checkpoint; with a new one where there is
        none, or where each rank had an optimizer of its own.

    Raises
    ------
    DataError
        It is no finished run, or damaged.
    """
    from pyddl import estimators
    from pyddl.train.run import load_run
    from pyddl.train.trainer import Result

    found = load_run(run)
    model: Any = found.model
    cls, = (each for each in vars(estimators).values()
            if isinstance(each, type) and issubclass(each, Estimator) and each._model is type(model))
    names = cls._defaults()
    recorded = {**found.config, **model.options(), "random_state": found.config.get("seed", 0)}
    estimator = cls(**{name: _as_default(value, names[name]) for name, value in recorded.items() if name in names})
    estimator.result_ = Result(found.model, found.parameters, found.buffers, found.metrics, found.summary)
    estimator.seed_ = recorded["random_state"]
    estimator._run = str(found.path)
    estimator.n_features_in_ = model.inputs
    estimator._n_features_out = estimator._codes()
    return estimator


def _as_default(value: Any, default: Any) -> Any:
    return tuple(value) if isinstance(default, tuple) else copy.copy(value)
