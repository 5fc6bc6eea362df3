"""Forward and backward through a module: its loss, the gradient of it, and what is said where either fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from pyddl import _own
from pyddl.data.batch import Batch
from pyddl.errors import DataError, ParameterError, PyddlError
from pyddl.models.pytorch.batch import TensorBatch, generator_seed
from pyddl.models.pytorch.binding import Binding, is_compiled
from pyddl.models.pytorch.made import Made, loss_of, no_updates, own_loss
from pyddl.models.stages import ALL, Phase, Stage

__all__ = ["Passes", "said"]

LOSS = "the module's loss"


class Passes:
    """What a module and its loss make of the rows of a batch.

    Parameters
    ----------
    made : Made
    binding : Binding
        Of the same module.

    Attributes
    ----------
    scored : list of str
        The phases whose losses are scores: those of the last stage.
    differentiates : bool
        Whether the loss itself asks for gradients, as penalties on slopes do, so that evaluation has to keep what they
        need.
    not_compiled : bool
        Whether the module is compiled, and its own loss, which calls it as it was written, is not.
    """

    def __init__(self, made: Made, binding: Binding):
        self.module, self.binding, self.differentiates = made.module, binding, False
        self._loss = made.loss or loss_of(made.module, made.beside)
        self.not_compiled = self._loss is own_loss and is_compiled(made.module)
        self._products = {"float32": nullcontext, "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16)}[made.dtype]
        stages = binding.stages or (Stage((Phase(ALL),)),)
        self.scored = [phase.name for phase in stages[-1].phases]
        self._turns = dict(self._turns_of(stages))
        self._names: dict[str, tuple[str, ...]] = {}  # of the sums, by phase

    def _turns_of(self, stages: tuple[Stage, ...]) -> Iterator[tuple[str, tuple[int, slice, frozenset[str]]]]:
        """Of each phase: its number, where its gradient lies, and which slices are trained."""
        layout = self.binding.layout
        for number, phase in (each for stage in stages for each in enumerate(stage.phases)):
            begin, end = layout.range_of(phase.groups)
            yield phase.name, (number, slice(begin, end), frozenset(s.name for s in layout if begin <= s.begin < end))

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> Mapping[str, float]:
        """As `Model.gradient`."""
        binding = self.binding
        _, place, trained = self._turns[batch.phase]
        if len(batch) == 0:
            gradients[place].fill(0)
            binding.announcer.announce_all(batch.ready, trained)
            return self.of_nothing(batch.phase)
        binding.to(parameters, gradients, buffers)
        binding.train(trained)
        binding.load_copied()
        binding.take_gradients()
        sums = self._run(batch, batch.phase, batch.turn, backward=True)
        binding.give_gradients_back()
        binding.settle()
        return sums

    def sums(self, batch: Batch, phase: str) -> dict[str, float]:
        """What the loss gives for these rows in the turn of a phase, the module as it is bound."""
        with torch.set_grad_enabled(self.differentiates):
            return self._run(batch, phase, self._turns[phase][0])

    def _run(self, batch: Batch, phase: str, turn: int, *, backward: bool = False) -> dict[str, float]:
        tensors = TensorBatch(batch, phase, turn)
        torch.default_generator.manual_seed(generator_seed(batch, turn))
        try:
            with self._products(), no_updates(self.module):
                loss, sums = sums_of(self._loss(self.module, tensors))
            if backward:
                self.binding.check_gradients()
                self._backward(loss, batch, phase)
        except (PyddlError, MemoryError):
            raise
        except Exception as error:
            if tensors.lacks_labels:
                raise DataError(f"{LOSS} asks for labels, and the rows have none: give them with --labels, or a source "
                                f"that has some ({_own.said(error)})") from error
            raise _said(LOSS, error) from error
        self._names[phase] = tuple(sums)
        return sums

    def _backward(self, loss: torch.Tensor, batch: Batch, phase: str) -> None:
        if not loss.requires_grad:
            raise ParameterError(f"{LOSS} does not depend on any parameter that phase {phase} trains: was it detached, "
                                 "or computed under torch.no_grad?")
        if batch.ready is None:
            loss.backward()
            return
        with self.binding.announcer.during(batch.ready, self._turns[phase][2]):
            loss.backward()

    def of_nothing(self, phase: str) -> dict[str, float]:
        """The sums of no rows: names do not depend on rows."""
        return dict.fromkeys(self._names.get(phase, ("loss",)), 0.0)

    def called(self, member: str, given: Any, count: int | None = None) -> Any:
        """What a method of the module gives: where ``count`` is given, so many rows of float32."""
        with said(f"{member} of the module"), self._products():
            found = getattr(self.module, member)(torch.from_numpy(given) if isinstance(given, np.ndarray) else given)
        if count is None:
            return found
        if not isinstance(found, torch.Tensor) or found.ndim == 0 or len(found) != count:
            what = f"of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ParameterError(f"{member} of the module returned {what}; expected a tensor of {count} rows")
        return found.float().reshape(count, -1).numpy().copy()


@contextmanager
def said(what: str) -> Iterator[None]:
    """Within the block, what code of the user's raises becomes an error in one line."""
    try:
        yield
    except (PyddlError, MemoryError):
        raise
    except Exception as error:
        raise _said(what, error) from error


def _said(what: str, error: Exception) -> Exception:
    if "DefaultCPUAllocator" in str(error):
        return MemoryError(str(error).strip().splitlines()[0])
    return _own.failed(f"{what} raised {_own.said(error)}")


def sums_of(found: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss, and all sums that came with it as numbers.

    Raises
    ------
    ParameterError
        It is no scalar, or comes without ``loss``.
    """
    given = found if isinstance(found, Mapping) else {"loss": found}
    loss = given.get("loss")
    if not isinstance(loss, torch.Tensor):
        what = f"the names {', '.join(map(str, given)) or 'none'}" if isinstance(found, Mapping) else repr(found)
        raise ParameterError(f"{LOSS} returned {what}; expected a scalar tensor, the sum of the losses of the batch's "
                             "rows, or a mapping of such sums, loss among them")
    return loss, {name: _number(name, value) for name, value in given.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor):
        if value.ndim == 0:
            return value.item()
    elif isinstance(value, float | int):
        return float(value)
    shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    raise ParameterError(f"{name} of {LOSS} is {shape}; expected a scalar, the sum over the batch's rows: .sum()")
