"""scikit-learn's conventions without scikit-learn: what its tools ask of an estimator, and of a transformer."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np

from pyddl import _check
from pyddl.data import Source
from pyddl.data.joined import in_order_of, scaled
from pyddl.data.scaling import Scaling
from pyddl.errors import ParameterError, ShapeError
from pyddl.estimators.rows import check_rows
from pyddl.estimators.warned import warn

__all__ = ["Conventions", "Transformer", "same"]

Self = TypeVar("Self", bound="Conventions")


class Conventions(ABC):
    """Parameters, their print, tags, and names of features.

    A subclass has an ``__init__`` with keywords that it stores as given, ``fit``, and after `fit` ``n_features_in_``.
    """

    n_features_in_: int
    feature_names_in_: np.ndarray
    _image_shape: tuple[int, ...] | None = None  # of the source that `fit` saw
    _scaling: Scaling | None = None  # the same

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

    @abstractmethod
    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Learn from X of shape (rows, features)."""

    def __repr__(self) -> str:
        changed = (f"{name}={getattr(self, name)!r}" for name, default in self._defaults().items()
                   if not same(getattr(self, name), default))
        return f"{type(self).__name__}({', '.join(changed)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: scikit-learn's diagram."""
        from sklearn.utils import estimator_html_repr

        return estimator_html_repr(self)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False), input_tags=InputTags())

    @contextmanager
    def _as_before_on_failure(self) -> Iterator[None]:
        """What is raised in the block leaves everything that was learned before as it was."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            from sklearn.exceptions import NotFittedError  # only who makes this mistake pays for the import

            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit first")

    def _rows(self, X: Any, *, first: bool = False) -> np.ndarray | Source:
        """X as rows that can be read, of the width and the names that `fit` saw, or, ``first``, to be remembered."""
        rows, names = check_rows(X)
        if first:
            self.n_features_in_ = int(rows.shape[1])
            self._image_shape = rows.image_shape if isinstance(rows, Source) else None
            self._scaling = rows.scaling if isinstance(rows, Source) else None
            if names is not None:
                self.feature_names_in_ = names
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            return rows
        if isinstance(rows, Source):
            fitted = getattr(self, "feature_names_in_", None)
            rows = in_order_of(rows, fitted if fitted is None else tuple(fitted), self._image_shape,
                               f"the rows that {type(self).__name__} was fitted with")
            names = fitted if rows.columns else None
        self._check_names(names)
        if rows.shape[1] != self.n_features_in_:
            raise ShapeError(f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                             f"{self.n_features_in_} features as input: give it the columns that fit saw")
        return rows if self._scaling is None else scaled(rows, self._scaling)

    def _unscaled(self, rows: np.ndarray) -> np.ndarray:
        """Rows that were made of scaled ones, in the units of X."""
        return rows if self._scaling is None else self._scaling.undo(rows)

    def _check_names(self, names: np.ndarray | None) -> None:
        """Wording as in scikit-learn, whose users know it (and whose checks look for it)."""
        fitted = getattr(self, "feature_names_in_", None)
        if fitted is None and names is not None:
            warn(f"X has feature names, but {type(self).__name__} was fitted without feature names")
        elif fitted is not None and names is None:
            warn(f"X does not have valid feature names, but {type(self).__name__} was fitted with feature names")
        elif fitted is not None and names is not None and not np.array_equal(fitted, names):
            unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
            message = "The feature names should match those that were passed during fit.\n"
            for which, unlike in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
                if unlike:
                    message += f"Feature names {which}:\n" + "".join(f"- {name}\n" for name in unlike[:5])
            if not unseen and not missing:
                message += "Feature names must be in the same order as they were in fit.\n"
            raise ShapeError(message)


class Transformer(Conventions):
    """What `fit` learned is used by `transform`, whose columns have names, in the container that the user chose.

    A subclass also has after `fit` the attribute ``_n_features_out``.
    """

    _n_features_out: int
    _output_dtypes: ClassVar[list[str]] = ["float32"]
    _sklearn_auto_wrap_output_keys = frozenset({"transform"})  # what `set_output` concerns

    @abstractmethod
    def transform(self, X: Any) -> Any:
        """What was learned says of X."""

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same X."""
        return self.fit(X, y).transform(X)

    def set_output(self: Self, *, transform: str | None = None) -> Self:
        """Choose what `transform` returns: "default" (ndarray), "pandas" or "polars"; None changes nothing."""
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of `transform`: the class's name in small letters, and a number."""
        self._check_fitted()
        prefix = type(self).__name__.lower()
        return np.asarray([f"{prefix}{i}" for i in range(self._n_features_out)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=list(self._output_dtypes))
        return tags

    def _contained(self, X: Any, result: np.ndarray) -> Any:
        """``result`` in the container that `set_output` or scikit-learn's configuration asks for."""
        if "sklearn" not in sys.modules:
            return result  # nobody can have asked for another
        from sklearn.utils._set_output import _wrap_data_with_container

        return _wrap_data_with_container("transform", result, X, self)


def same(value: Any, default: Any) -> bool:
    """Whether a parameter still has its default."""
    return value is default or (type(value) is type(default) and bool(np.all(value == default)))
