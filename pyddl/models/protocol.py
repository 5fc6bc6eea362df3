"""What a model is: functions on a flat vector. Any object with these members can be trained.

A model owns no trained memory and never learns that there are other ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pyddl.data.batch import Batch
from pyddl.layout import Layout

__all__ = ["Model", "Ready", "described", "name_of", "options_of"]

Ready = Callable[[int, int], None]


@runtime_checkable
class Model(Protocol):
    """The protocol that the trainer relies on.

    Attributes
    ----------
    layout : Layout
        Slices of the parameters.
    buffers : Layout
        State that is kept but not trained (running statistics); often empty.
    phases : tuple of str
        Groups of the layout that are trained in turn, one gradient and update each; usually ``("all",)``.

    Notes
    -----
    Optional members, used where present:

    ``evaluate(parameters, buffers, batch) -> dict``
        Sums over the rows of ``batch``, with key ``loss`` and, for models that reconstruct, ``squared_error``.
    ``encode(parameters, buffers, rows) -> ndarray``, ``reconstruct(parameters, buffers, rows) -> ndarray``
    ``inputs`` : int
        Features of a row; ``input_range`` : (low, high) that the data must keep to. The trainer refuses others.
    ``options() -> dict``
        Plain values that make the same model again. Ranks, and a run and what goes on with it, must have the same.
    ``split(part, parts) -> Model``
        The part of the model that rank ``part`` of ``parts`` holds where several hold it together: a model whose
        layout says by ``first`` and ``of`` which rows of which tensors it has, under the same names. Its gradient and
        evaluation speak to the other parts by ``batch.group``, and the losses of all parts add up to the loss.
    ``takes_rounded`` : bool
        `gradient` takes ``rounded`` besides: the parameters in bfloat16 (a uint16 vector of their bits), or None where
        the trainer does not have them. An optimizer writes them in the pass that moves the parameters.
    ``flops`` : int
        Floating-point operations of one gradient, per row, for the share of the machine's peak.
    """

    layout: Layout
    buffers: Layout
    phases: tuple[str, ...]

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int) -> None:
        """Fill both vectors for the start of training; the same values for the same seed on every rank."""

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch,
                 ready: Ready | None = None) -> float:
        """Overwrite ``gradients`` with the sum over the rows of ``batch``; return the sum of their losses.

        Parameters
        ----------
        parameters, gradients : ndarray of shape (layout.size,), float32
        buffers : ndarray of shape (buffers.size,), float32
        batch : Batch
            No rows at all is legal: the gradient is zero, the loss 0.
        ready : callable, optional
            ``ready(begin, end)`` may be called as soon as ``gradients[begin:end]`` is final, so that it can start to
            travel. Each element once at the most, in an order that does not depend on the rows; elements never
            announced are taken as final at the return.

        Returns
        -------
        float
            Sum of the losses, in the unit of the loss (nats for cross-entropy, squared units for squared error).
        """
        ...


def name_of(model: Model) -> str:
    """Public name of a model, or the name of a user's class."""
    return getattr(model, "name", type(model).__name__)


def described(model: Model) -> dict[str, Any]:
    """A model as plain values: two of which these are equal give the same losses, and one can take over from the other.

    Not the element type of its products: where a processor lacks it, training goes on in float32.
    """
    options = {name: value for name, value in options_of(model).items() if name != "dtype"}
    tensors = {f"{vector}.{s.name}": list(s.shape) for vector, layout in (("parameters", model.layout),
                                                                           ("buffers", model.buffers)) for s in layout}
    return {"model": name_of(model), "tensors": tensors, **json.loads(json.dumps(options))}


def options_of(model: Model) -> dict[str, Any]:
    """What a model says of how it was made, as plain values; nothing where it does not say."""
    return dict(getattr(model, "options", dict)())
