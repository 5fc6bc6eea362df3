"""What a model is: functions on a flat vector. Any object with these members can be trained.

A model owns no trained memory and never learns that there are other ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.errors import ParameterError
from pyddl.layout import Layout

__all__ = ["Model", "check_model", "described", "finish", "name_of", "options_of"]


@runtime_checkable
class Model(Protocol):
    """The protocol that the trainer relies on.

    Attributes
    ----------
    layout : Layout
        Slices of the parameters.
    buffers : Layout
        State that is kept but not trained (running statistics, persistent chains), with a merge rule for each slice;
        often empty.

    Notes
    -----
    Optional members, used where present:

    ``stages`` : tuple of Stage
        What is trained together, and for how long: see `pyddl.models.stages`. By default all slices together.
    ``evaluate(parameters, buffers, batch) -> dict``
        Scores: sums over the rows of ``batch`` by their names, ``loss`` among them. Each becomes ``test_<name>``, a
        mean over the test rows, in books, tables and plots. The names do not depend on the rows.
    ``measures`` : mapping of callable
        Figures that are no sums over rows (a likelihood, a distance of distributions), for ``pyddl evaluate
        --measure``: ``function(parameters, buffers, source, crew) -> dict``. ``crew`` shares the work out:
        ``crew.part(n)`` is this rank's range of ``n`` pieces of work, ``crew.gather(array)`` all ranks' arrays in their
        order.
    ``encode(parameters, buffers, rows) -> ndarray``, ``reconstruct(parameters, buffers, rows) -> ndarray``
        The codes of rows ``(rows, inputs)``, and the rows as their codes give them back.
    ``sample(parameters, buffers, count, seed) -> ndarray``
        New rows ``(count, inputs)``, for ``pyddl generate``.
    ``pictures(parameters, buffers, rows) -> dict``
        Pictures by their names, each ``(number, features)``, rows as they enter the model, or of a shape of its own,
        ``(number, height, width)`` or ``(number, height, width, channels)``.
    ``corrupted(rows) -> ndarray or None``
        Rows as training shows them, where it does not show them as they are: for pictures.
    ``shown(parameters, buffers) -> ndarray``
        Rows ``(number, features)`` that tell how far training has come, such as samples of one noise: kept after each
        epoch in the run directory, and drawn beside each other.
    ``warnings(parameters, buffers, line, shown) -> list of str``
        What an epoch's line of the books, or the model itself, should warn of, each with what to try; ``shown`` is what
        `shown` gave after the epoch, None where there is none.
    ``inputs`` : int
        Features of a row; ``input_range`` : (low, high) that the data must keep to. The trainer refuses others: the
        user may scale them, or do as ``range_cure`` says.
    ``needs_labels`` : bool
        Whether batches must have labels.
    ``check_data(data)``
        Raises where the data (a `Source`) do not fit in another way; called before training, on every rank.
    ``finish(parameters, buffers)``
        Called once a training has ended, on every rank, with what its `Result` has, averaged copies in their places:
        for a model that shows the values to others, in memory of its own.
    ``aliases`` : mapping of str
        Other names of slices, and the names that the layout has: ``model.safetensors`` holds a tensor under each.
    ``options() -> dict``
        Plain values that make the same model again. Ranks, and a run and what goes on with it, must have the same.
    ``split(part, parts) -> Model``
        The part of the model that rank ``part`` of ``parts`` holds where several hold it together: a model whose layout
        says by ``first`` and ``of`` which rows of which tensors it has, under the same names, and whose ``whole`` is
        the model. Its gradient and evaluation speak to the other parts by ``batch.group``, and the losses of all parts
        add up to the loss. What a part holds whole, all parts must move alike.
    ``rows_together`` : int
        Neighbours in a step, by default 1, that one worker has, for they are looked at together: parts of a step are
        cut between such groups, counted from its beginning, and the rest of a step is in the last part.
    ``takes_rounded`` : bool
        `gradient` makes use of ``batch.rounded``.
    ``rate_scale`` : float
        Factor of the default learning rates of rules whose steps grow with the gradient (sgd, momentum, nesterov), 1 by
        default: small where the loss is a sum over many features.
    ``flops`` : int
        Floating-point operations of one gradient, per row, for the share of the machine's peak.
    """

    layout: Layout
    buffers: Layout

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """Fill both vectors for the start of training; the same values for the same seed on every rank.

        ``data`` are statistics of the training rows, which do not depend on ranks; they are computed when first asked
        for, by all ranks together.
        """

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> float | Mapping[str, float]:
        """Overwrite ``gradients`` with the sum over the rows of ``batch``; return the sum of their losses.

        Parameters
        ----------
        parameters, gradients : ndarray of shape (layout.size,), float32
            In the turn of a phase only its slices of ``gradients`` count; the others may be left alone or scratched.
        buffers : ndarray of shape (buffers.size,), float32
        batch : Batch
            No rows at all is legal: the gradient is zero, the loss 0.

        Returns
        -------
        float, or mapping of float
            Sum of the losses, in the unit of the loss (nats for cross-entropy, squared units for squared error). Or
            sums over the rows by their names, ``loss`` among them: each of the others becomes ``train_<name>``, a mean
            over the rows of an epoch, in books, tables and plots. The names do not depend on the rows, and those of two
            phases differ.
        """
        ...


def check_model(model: Any) -> None:
    """Refuse what lacks a member that training relies on, or says what it is made of in values that no file holds.

    Raises
    ------
    ParameterError
    """
    if isinstance(model, type):
        raise ParameterError(f"the model is the class {model.__name__}; expected a model: {model.__name__}(...)")
    kind = type(model).__name__
    for name in ("layout", "buffers"):
        if not isinstance(getattr(model, name, None), Layout):
            raise ParameterError(f"{name} of {kind} is {getattr(model, name, 'missing')!r}; expected a pyddl.Layout "
                                 "(docs/own_models.md shows a whole model)")
    for name in ("initialise", "gradient"):
        if not callable(getattr(model, name, None)):
            raise ParameterError(f"{kind} has no method {name}; docs/own_models.md says what training asks of a model")
    try:
        json.dumps(options_of(model))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"options() of {kind} has values that a file of JSON cannot hold ({error}): expected "
                             "plain numbers, texts, lists and mappings of them") from None


def name_of(model: Model) -> str:
    """Public name of a model, or the name of a user's class."""
    return getattr(model, "name", type(model).__name__)


def described(model: Model) -> dict[str, Any]:
    """A model as plain values: two of which these are equal give the same losses, and one can take over from the other.

    Not the element type of its products: where a processor lacks it, training goes on in float32. Nor the file that
    makes it, which may lie elsewhere by now.
    """
    options = {name: value for name, value in options_of(model).items() if name not in ("dtype", "module")}
    tensors = {f"{vector}.{s.name}": list(s.shape) for vector, layout in (("parameters", model.layout),
                                                                           ("buffers", model.buffers)) for s in layout}
    return {"model": name_of(model), "tensors": tensors, **json.loads(json.dumps(options))}


def options_of(model: Model) -> dict[str, Any]:
    """What a model says of how it was made, as plain values; nothing where it does not say."""
    return dict(getattr(model, "options", dict)())


def finish(model: Model, parameters: np.ndarray, buffers: np.ndarray) -> None:
    """Tell a model that wants to know that a training has ended with these values."""
    if hasattr(model, "finish"):
        model.finish(parameters, buffers)
