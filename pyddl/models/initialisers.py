"""Initialisers: the first values of a weight matrix.

``initialiser(name)(out, seed=..., slice_number=...)`` fills ``out`` of shape (outputs, inputs). Each value
depends on (seed, slice_number, row, column) only (`pyddl.random`): every rank gets the same ones, and a rank
that holds a part of the matrix gets its part. A part says where it begins, and how large the whole is::

    whole = np.empty((64, 784), np.float32)
    glorot_uniform(whole, seed=0, slice_number=2)
    lower = np.empty((32, 784), np.float32)          # equal to whole[32:]
    glorot_uniform(lower, seed=0, slice_number=2, first_row=32, fan_out=64)

A convolution's weights (outputs, inputs, height, width) are filled as (outputs, inputs * height * width),
with ``fan_out=outputs * height * width``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyddl import _check, _core, random
from pyddl.errors import ShapeError

__all__ = [
    "INITIALISERS",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "initialiser",
    "normal",
    "sparse",
    "uniform",
]

Initialiser = Callable[..., None]
_VALUES, _CHOICE = 0, 1  # substeps: what a number of a weight is for


def uniform(out: np.ndarray, *, seed: int, slice_number: int, limit: float = 0.05, first_row: int = 0,
            first_column: int = 0) -> None:
    """Uniform in [-limit, limit).

    Parameters
    ----------
    out : ndarray of shape (outputs, inputs), float32
        Contiguous; filled.
    seed : int
        The user's seed, from 0 to 2**48 - 1.
    slice_number : int
        Number of the tensor in its layout: two slices of one model never share random numbers.
    limit : float, default=0.05
        At least 0.
    first_row, first_column : int, default=0
        Where ``out`` begins in the whole matrix.

    Raises
    ------
    ParameterError, ShapeError
    """
    limit = _check.number("limit", limit, at_least=0)
    _fill(_core.uniform, out, seed, slice_number, first_row, first_column)
    out -= np.float32(0.5)
    out *= np.float32(2 * limit)


def normal(out: np.ndarray, *, seed: int, slice_number: int, deviation: float = 0.01, first_row: int = 0,
           first_column: int = 0) -> None:
    """Normal with mean 0 and standard deviation ``deviation``; other parameters as in `uniform`.

    The default is Hinton's for the weights of an RBM (2010, A practical guide to training restricted
    Boltzmann machines, section 8).
    """
    deviation = _check.number("deviation", deviation, at_least=0)
    _fill(_core.normal, out, seed, slice_number, first_row, first_column)
    out *= np.float32(deviation)


def glorot_uniform(out: np.ndarray, *, gain: float = 1.0, fan_in: int | None = None,
                   fan_out: int | None = None, **key: int) -> None:
    """Uniform with variance ``gain**2 * 2 / (fan_in + fan_out)`` [1]_.

    Keeps variances of activations and gradients from layer to layer where units are linear.

    Parameters
    ----------
    out, seed, slice_number, first_row, first_column
        As in `uniform`.
    gain : float, default=1.0
    fan_in, fan_out : int, optional
        Inputs of an output and outputs of an input; those of ``out`` by default.

    References
    ----------
    .. [1] Glorot, Bengio (2010), Understanding the difficulty of training deep feedforward neural networks,
       AISTATS, equation 16.
    """
    inputs, outputs = _fans(out, fan_in, fan_out)
    uniform(out, limit=math.sqrt(3) * _deviation(gain, 2 / (inputs + outputs)), **key)


def glorot_normal(out: np.ndarray, *, gain: float = 1.0, fan_in: int | None = None,
                  fan_out: int | None = None, **key: int) -> None:
    """Normal with the variance of `glorot_uniform`; parameters as there."""
    inputs, outputs = _fans(out, fan_in, fan_out)
    normal(out, deviation=_deviation(gain, 2 / (inputs + outputs)), **key)


def he_uniform(out: np.ndarray, *, gain: float = 1.0, fan_in: int | None = None, **key: int) -> None:
    """Uniform with variance ``gain**2 * 2 / fan_in`` [1]_; parameters as in `glorot_uniform`.

    Keeps variances of activations from layer to layer where ReLUs halve them.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun (2015), Delving deep into rectifiers, ICCV, equation 10.
    """
    inputs, _ = _fans(out, fan_in, None)
    uniform(out, limit=math.sqrt(3) * _deviation(gain, 2 / inputs), **key)


def he_normal(out: np.ndarray, *, gain: float = 1.0, fan_in: int | None = None, **key: int) -> None:
    """Normal with the variance of `he_uniform`; parameters as in `glorot_uniform`."""
    inputs, _ = _fans(out, fan_in, None)
    normal(out, deviation=_deviation(gain, 2 / inputs), **key)


def sparse(out: np.ndarray, *, seed: int, slice_number: int, incoming: int = 15, deviation: float = 1.0,
           fan_in: int | None = None, first_row: int = 0, first_column: int = 0) -> None:
    """``incoming`` weights of each output are normal, the others 0 [1]_.

    Keeps units different from each other however many inputs they have.

    Parameters
    ----------
    out, seed, slice_number, first_row, first_column
        As in `uniform`.
    incoming : int, default=15
        Weights of each output that are not 0; all, where there are fewer inputs.
    deviation : float, default=1.0
        Their standard deviation.
    fan_in : int, optional
        Inputs of the whole matrix, among which they are chosen; those of ``out`` by default.

    References
    ----------
    .. [1] Martens (2010), Deep learning via Hessian-free optimization, ICML, section 5.
    """
    incoming = _check.integer("incoming", incoming, at_least=1)
    normal(out, seed=seed, slice_number=slice_number, deviation=deviation, first_row=first_row,
           first_column=first_column)
    end = first_column + out.shape[1]
    inputs = end if fan_in is None else _check.integer("fan_in", fan_in, at_least=1)
    if inputs < end:
        raise ShapeError(f"out ends at column {end}, but fan_in is {inputs}; "
                         "expected fan_in to count the inputs of the whole matrix")
    # Of all inputs of a row, those with the least random keys are kept.
    keys = np.empty((1, inputs), dtype=np.float32)
    for i, row in enumerate(out):
        index = np.array([first_row + i], dtype=np.int64)
        _core.uniform(keys, index, seed, random.INITIALISE, slice_number, _CHOICE)
        left_out = np.ones(inputs, dtype=bool)
        left_out[np.argsort(keys[0], kind="stable")[:incoming]] = False
        row[left_out[first_column:end]] = 0


INITIALISERS: dict[str, Initialiser] = {
    f.__name__: f for f in (glorot_uniform, glorot_normal, he_uniform, he_normal, normal, uniform, sparse)
}
"""The initialisers by name."""


def initialiser(name: str) -> Initialiser:
    """The initialiser of this name.

    Parameters
    ----------
    name : {"glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "normal", "uniform", "sparse"}

    Returns
    -------
    callable
        ``f(out, *, seed, slice_number, **scale)``.

    Raises
    ------
    ParameterError
        Unknown name.
    """
    return INITIALISERS[_check.one_of("initialiser", name, INITIALISERS)]


def _fill(kernel: Callable[..., None], out: np.ndarray, seed: int, slice_number: int, first_row: int,
          first_column: int) -> None:
    """Fill ``out`` with numbers keyed by its rows and columns in the whole matrix."""
    _check_matrix(out)
    _check.integer("seed", seed, at_least=0, at_most=random.SEEDS - 1)
    _check.integer("slice_number", slice_number, at_least=0)
    _check.integer("first_row", first_row, at_least=0)
    _check.integer("first_column", first_column, at_least=0)
    rows = np.arange(first_row, first_row + len(out), dtype=np.int64)
    if first_column == 0:
        kernel(out, rows, seed, random.INITIALISE, slice_number, _VALUES)
        return
    whole_row = np.empty((1, first_column + out.shape[1]), dtype=np.float32)
    for i in range(len(out)):
        kernel(whole_row, rows[i : i + 1], seed, random.INITIALISE, slice_number, _VALUES)
        out[i] = whole_row[0, first_column:]


def _check_matrix(out: Any) -> None:
    if isinstance(out, np.ndarray) and out.ndim == 2 and out.dtype == np.float32 and out.flags.c_contiguous:
        return
    got = f"{out.dtype} array of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
    raise ShapeError(f"out is a {got}; expected a contiguous float32 array of shape (outputs, inputs)")


def _fans(out: np.ndarray, fan_in: int | None, fan_out: int | None) -> tuple[int, int]:
    _check_matrix(out)
    outputs, inputs = out.shape
    return (max(inputs, 1) if fan_in is None else _check.integer("fan_in", fan_in, at_least=1),
            max(outputs, 1) if fan_out is None else _check.integer("fan_out", fan_out, at_least=1))


def _deviation(gain: float, variance: float) -> float:
    return _check.number("gain", gain, at_least=0) * math.sqrt(variance)
