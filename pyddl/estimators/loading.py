"""A run directory as an estimator."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import options
from pyddl.errors import DataError
from pyddl.estimators.table import TABLE, named
from pyddl.models.protocol import name_of

__all__ = ["load"]


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
        It is no finished run, or damaged; or its model has no estimator.
    """
    from pyddl.train.run import ROWS, load_run
    from pyddl.train.trainer import Result

    found = load_run(run)
    model: Any = found.model
    name = name_of(model)
    if name not in TABLE:
        raise DataError(f"the model in {run}, {name}, has no estimator; those of {', '.join(TABLE)} have. "
                        "pyddl.train.load_run reads it")
    cls: Any = named(TABLE[name])
    defaults = cls._defaults()
    paths = {option.name for option in options.of_model(name) if option.kind == "run"}
    recorded = {**found.config, **{key: value for key, value in model.options().items() if key not in paths},
                "random_state": found.config.get("seed", 0)}
    estimator = cls(**{key: _as_default(value, defaults[key]) for key, value in recorded.items() if key in defaults})
    estimator.result_ = Result(found.model, found.parameters, found.buffers, found.metrics, found.summary,
                               averaged=found.averaged)
    estimator.seed_ = recorded["random_state"]
    estimator._run = str(found.path)
    estimator.n_features_in_ = model.inputs
    rows = found.config.get(ROWS, {})
    estimator._image_shape, estimator._scaling = rows.get("image_shape"), found.scaling
    if rows.get("columns"):
        estimator.feature_names_in_ = np.asarray(rows["columns"], dtype=object)
    if rows.get("classes"):
        estimator.classes_ = np.asarray(rows["classes"])
    estimator._learned()
    return estimator


def _as_default(value: Any, default: Any) -> Any:
    return tuple(value) if isinstance(default, tuple) else copy.copy(value)
