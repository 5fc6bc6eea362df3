"""Initialisers: the first values of a weight matrix.

``initialiser(name)(out, seed=..., slice_number=...)`` fills ``out`` of shape (outputs, inputs). Each value depends on
(seed, slice_number, row, column) only (`pyddl.random`), so that every rank, and a rank that holds only a part of the
matrix, gets the same ones. A part says where it begins, and how large the whole is::

    whole = np.empty((64, 784), np.float32)
    glorot_uniform(whole, seed=0, slice_number=2)
    lower = np.empty((32, 784), np.float32)          # equal to whole[32:]
    glorot_uniform(lower, seed=0, slice_number=2, first_row=32, fan_out=64)

A convolution's weights (outputs, inputs, height, width) are filled as (outputs, inputs * height * width), with
``fan_out=outputs * height * width``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyddl import _check, _core, random
from pyddl.errors import ShapeError

__all__ = ["INITIALISERS", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "initialiser", "normal",
           "sparse", "uniform"]

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

    The default is Hinton's for the weights of an RBM (2010, A practical guide to training restricted Boltzmann
    machines, section 8).
    """
    deviation = _check.number("deviation", deviation, at_least=0)
    _fill(_core.normal, out, seed, slice_number, first_row, first_column)
    out *= np.float32(deviation)


def glorot_uniform(out: np.ndarray, *, seed: int, slice_number: int, gain: float = 1.0, fan_in: int | None = None,
                   fan_out: int | None = None, first_row: int = 0, first_column: int = 0) -> None:
    """Uniform with variance gain**2 * 2 / (fan_in + fan_out) [1]_: keeps variances where activations are linear.

    Parameters
    ----------
    out, seed, slice_number, first_row, first_column
        As in `uniform`.
    gain : float, default=1.0
    fan_in, fan_out : int, optional
        Inputs of an output and outputs of an input; those of ``out`` by default.

    References
    ----------
    .. [1] Glorot, Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, AISTATS,
       equation 16.
    """
    deviation = _glorot_deviation(out, gain, fan_in, fan_out)
    uniform(out, seed=seed, slice_number=slice_number, limit=math.sqrt(3) * deviation, first_row=first_row,
            first_column=first_column)


def glorot_normal(out: np.ndarray, *, seed: int, slice_number: int, gain: float = 1.0, fan_in: int | None = None,
                  fan_out: int | None = None, first_row: int = 0, first_column: int = 0) -> None:
    """Normal with the variance of `glorot_uniform`; parameters as there."""
    deviation = _glorot_deviation(out, gain, fan_in, fan_out)
    normal(out, seed=seed, slice_number=slice_number, deviation=deviation, first_row=first_row,
           first_column=first_column)


def he_uniform(out: np.ndarray, *, seed: int, slice_number: int, gain: float = 1.0, fan_in: int | None = None,
               first_row: int = 0, first_column: int = 0) -> None:
    """Uniform with variance gain**2 * 2 / fan_in [1]_: keeps variances of the forward pass where ReLUs halve them.

    Parameters as in `glorot_uniform`.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun (2015), Delving deep into rectifiers, ICCV, equation 10.
    """
    uniform(out, seed=seed, slice_number=slice_number, limit=math.sqrt(3) * _he_deviation(out, gain, fan_in),
            first_row=first_row, first_column=first_column)


def he_normal(out: np.ndarray, *, seed: int, slice_number: int, gain: float = 1.0, fan_in: int | None = None,
              first_row: int = 0, first_column: int = 0) -> None:
    """Normal with the variance of `he_uniform`; parameters as in `glorot_uniform`."""
    normal(out, seed=seed, slice_number=slice_number, deviation=_he_deviation(out, gain, fan_in),
           first_row=first_row, first_column=first_column)


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
    inputs = first_column + out.shape[1] if fan_in is None else _check.integer("fan_in", fan_in, at_least=1)
    if inputs < first_column + out.shape[1]:
        raise ShapeError(f"out ends at column {first_column + out.shape[1]}, but fan_in is {inputs}; expected "
                         "fan_in to count the inputs of the whole matrix")
    keys = np.empty((1, inputs), dtype=np.float32)
    chosen = np.zeros(inputs, dtype=bool)
    for i, row in enumerate(out):
        _core.uniform(keys, np.array([first_row + i], dtype=np.int64), seed, random.INITIALISE, slice_number, _CHOICE)
        chosen[:] = False
        chosen[np.argsort(keys[0], kind="stable")[:incoming]] = True
        row[~chosen[first_column : first_column + out.shape[1]]] = 0


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
    if not isinstance(out, np.ndarray) or out.ndim != 2 or out.dtype != np.float32 or not out.flags.c_contiguous:
        got = f"{out.dtype} array of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeError(f"out is a {got}; expected a contiguous float32 array of shape (outputs, inputs)")


def _fans(out: np.ndarray, fan_in: int | None, fan_out: int | None) -> tuple[int, int]:
    _check_matrix(out)
    outputs, inputs = out.shape
    return (max(inputs, 1) if fan_in is None else _check.integer("fan_in", fan_in, at_least=1),
            max(outputs, 1) if fan_out is None else _check.integer("fan_out", fan_out, at_least=1))


def _glorot_deviation(out: np.ndarray, gain: float, fan_in: int | None, fan_out: int | None) -> float:
    inputs, outputs = _fans(out, fan_in, fan_out)
    return _check.number("gain", gain, at_least=0) * math.sqrt(2 / (inputs + outputs))


def _he_deviation(out: np.ndarray, gain: float, fan_in: int | None) -> float:
    inputs, _ = _fans(out, fan_in, None)
    return _check.number("gain", gain, at_least=0) * math.sqrt(2 / inputs)
