"""A PyTorch module as a model: whatever a loss of its own can say, trained under every strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl import _check, _own, names
from pyddl.data.batch import Batch
from pyddl.data.prefetch import label_buffer
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError
from pyddl.models.stages import Phase, Stage

if TYPE_CHECKING:
    from pyddl.models.pytorch.made import Loss

__all__ = ["Torch"]

FEW = 8  # rows that the loss is tried on
CHUNK = 500  # rows that pass through the module at once
MEAN = ("the module's loss looks like a mean over the rows, and pyddl expects their sum: figures and step sizes are "
        "too small by the number of rows (reduction='sum')")
MEAN_OF_OTHERS = ("{} of the module's loss looks like a mean over the rows, and pyddl expects their sum: its figures "
                  "are too small by the number of rows")
NOT_COMPILED = ("torch.compile compiles what module(...) calls, and no other method: the module's own loss(batch), and "
                "what that calls, run as they are written; give loss(module, batch) beside it, with module(...) in it")
SERVES = {"encode": "encode(rows), which returns a line of codes for each of them",
          "reconstruct": "reconstruct(rows), which returns as many rows",
          "sample": "sample(count), which returns so many rows",
          "pictures": "pictures(rows), which returns tensors by their names"}
"""Methods that a module may have besides, and what they are."""
INSTALL = "model torch needs PyTorch, which is not installed here: pip install 'pyddl[torch]'"


class Torch:
    """A PyTorch module, whose parameters and gradients are views of the flat vectors that strategies move.

    Parameters
    ----------
    module : nn.Module, callable or str
        A module, which begins with the values that it has (of several ranks: rank 0's) and has those of training in the
        end; what makes one, called with PyTorch's generator seeded; or ``FILE.py:make_model``, a function in a file,
        which the command line and run directories can name. It may return a module, a module and its loss, or a
        `Torch`; it is given ``inputs``, the features of a row, where it takes that.
    loss : callable, optional
        ``loss(module, batch)``: a scalar tensor, the *sum* of the losses of ``batch``'s rows, or such sums by their
        names, ``loss`` among them. ``batch`` is a `pyddl.models.pytorch.TensorBatch`. By default the module's own
        method ``loss(batch)``, or the function ``loss`` of the file.
    arguments : mapping, optional
        What the callable is given besides.
    phases : sequence of Phase, default=()
        What is trained in turns, by rules of their own. Their groups name submodules, or how names of parameters begin;
        parameters of no phase stay as they are. By default all parameters together.
    stages : sequence of Stage, default=()
        In the place of phases: several sets of them, one after another.
    merge : mapping of str, optional
        How buffers of several workers become one (see `pyddl.Slice`), by patterns of their names: ``{"*.counts":
        "sum"}``. By default ``mean``, of whole numbers ``max``.
    dtype : {"float32", "bfloat16"}, default="float32"
        bfloat16: the loss is computed under ``torch.autocast``.
    inputs : int, optional
        Features of a row.

    Attributes
    ----------
    layout, buffers : Layout
        Slices under the names of the module's ``state_dict``.
    module : nn.Module

    Raises
    ------
    ParameterError
        PyTorch is not installed; or the module, its file or its loss is not as expected: the message says how.

    Notes
    -----
    In training the module's tensors lie in the trainer's vectors. Between trainings, and after them, they have their
    own memory.
    """

    name = "torch"
    flops: int

    def __init__(self, module: Any = None, loss: Loss | None = None, *, arguments: Mapping[str, Any] | None = None,
                 phases: Sequence[Phase] = (), stages: Sequence[Stage] = (), merge: Mapping[str, str] | None = None,
                 dtype: str = "float32", inputs: int | None = None):
        try:
            import torch
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != "torch":
                raise  # it is there, and broken
            raise ParameterError(INSTALL) from None
        from pyddl.models.pytorch import binding, made, passes

        if phases and stages:
            raise ParameterError("phases and stages are both given; expected one of them: stages are made of phases")
        _check.one_of("dtype", dtype, names.DTYPES)
        made.check_loss(loss)
        self._again = partial(Torch, module, loss, arguments=arguments, phases=phases, stages=stages, merge=merge,
                              dtype=dtype, inputs=inputs)
        self._given, self._arguments, self._inputs = module, dict(arguments or {}), inputs
        self._make = made.maker(module, self._arguments, inputs)
        first = self._make(torch.initial_seed())  # of whoever makes this model
        self.made = first._replace(loss=loss or first.loss, merge=merge or first.merge,
                                   stages=stages or ([Stage(tuple(phases))] if phases else first.stages),
                                   dtype=max(dtype, first.dtype, key=names.DTYPES.index))
        self._binding = binding.Binding(self.module, self.made.stages, self.made.merge)
        self._passes = passes.Passes(self.made, self._binding)
        self.layout, self.buffers, self.aliases = self._binding.layout, self._binding.buffers, self._binding.aliases
        if self._binding.stages:
            self.stages = self._binding.stages
        if inputs is not None:
            self.inputs = inputs
        self._advice: list[str] = []
        self._operations = 0  # floating-point ones of a gradient, per row, where they could be counted
        for member in SERVES:
            if callable(getattr(self.module, member, None)):
                setattr(self, member, getattr(self, f"_{member}"))

    def __getattr__(self, name: str) -> Any:  # of what is not there
        if name in SERVES:
            raise AttributeError(f"give the module a method {SERVES[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, ()

    @property
    def module(self) -> Any:
        return self.made.module

    @property
    def dtype(self) -> str:
        return self.made.dtype

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> Torch:
        """The model for these rows, on a few of which its loss is tried, so that ``flops`` are known from the
        beginning: threads depend on them."""
        made = cls(inputs=data.features, **options)
        made.check_data(data)
        if made._operations:
            made.flops = made._operations
        return made

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again, where a function in a file makes it."""
        if not isinstance(self._given, str):
            return {"module": None, "dtype": self.dtype}
        return {"module": _own.anywhere(self._given), "arguments": self._arguments, "inputs": self._inputs,
                "dtype": self.dtype}

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        self._binding.release()
        made = self._make(seed).module
        if made is not self.module:
            self._binding.take(made)
        self._binding.save(parameters, buffers)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> Mapping[str, float]:
        return self._passes.gradient(parameters, gradients, buffers, batch)

    def finish(self, parameters: np.ndarray, buffers: np.ndarray) -> None:
        """Give the module these values, in memory of its own."""
        self._binding.load(parameters, buffers)

    # ---- the module as it serves

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows of what the loss gives, the module in eval mode: of several phases ``loss`` is the sum of
        their losses, and ``loss_PHASE`` each."""
        passes = self._passes
        if len(batch) == 0:
            return _joined({phase: passes.of_nothing(phase) for phase in passes.scored})
        with self._binding.bound(parameters, buffers):
            return _joined({phase: passes.sums(batch, phase) for phase in passes.scored})

    def check_data(self, data: Source) -> None:
        """Try the loss on a few rows, before anything depends on it.

        Raises
        ------
        ParameterError
            It raises, or is no scalar.
        """
        from pyddl.models.pytorch.binding import uncompiled

        count = min(len(data), FEW) // 2 * 2 or len(data)
        if count == 0:
            return
        index = np.arange(count, dtype=np.int64)
        rows, labels = np.empty((count, data.features), dtype=np.float32), label_buffer(data, count)
        data.read(index, rows)
        if labels is not None:
            data.read_labels(index, labels)
        batch = Batch(rows, index, labels=labels)
        with uncompiled(), self._binding.serving():
            try:
                self._try(batch)
            except DataError:  # who encodes needs no labels
                if labels is not None:
                    raise
            except ParameterError as error:
                self._passes.differentiates = True
                with suppress(ParameterError):
                    self._try(batch)
                    return
                raise error

    def _try(self, batch: Batch) -> None:
        from pyddl.models.pytorch.binding import counted

        count, passes = len(batch), self._passes
        self._operations, self._advice = 0, [NOT_COMPILED] if passes.not_compiled else []
        for phase in passes.scored:
            with nullcontext(int) if passes.differentiates else counted() as done:  # which fails with such losses
                whole = passes.sums(batch, phase)
            self._operations += 3 * done() // count  # the pass backward is two of those forward
            halves = [passes.sums(batch.part(*part), phase) for part in ((0, count // 2), (count // 2, count))
                      if count > 1]
            means = [name for name, value in whole.items()
                     if halves and _is_mean(value, sum(half.get(name, 0.0) for half in halves))]
            self._advice += [MEAN if name == "loss" else MEAN_OF_OTHERS.format(name) for name in means]

    def warnings(self, parameters: np.ndarray, buffers: np.ndarray, line: Mapping[str, Any],
                 shown: np.ndarray | None) -> list[str]:
        """Once: that the loss, or what comes with it, looks like a mean; that it is not compiled."""
        advice, self._advice = self._advice, []
        return list(dict.fromkeys(advice))

    def _encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What the module's ``encode(rows)`` makes of them."""
        return self._of_rows("encode", parameters, buffers, rows)

    def _reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What the module's ``reconstruct(rows)`` makes of them."""
        return self._of_rows("reconstruct", parameters, buffers, rows)

    def _of_rows(self, member: str, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        parts = [rows[begin : begin + CHUNK] for begin in range(0, max(1, len(rows)), CHUNK)]
        with self._binding.bound(parameters, buffers):
            return np.concatenate([self._passes.called(member, part, len(part)) for part in parts])

    def _sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int) -> np.ndarray:
        """So many rows of the module's ``sample(count)``, PyTorch's generator seeded."""
        import torch

        with self._binding.bound(parameters, buffers):
            torch.manual_seed(seed)
            return self._passes.called("sample", count, count)

    def _pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures of the module's ``pictures(rows)``, by their names."""
        with self._binding.bound(parameters, buffers):
            found = self._passes.called("pictures", np.array(rows, dtype=np.float32))
            return {name: each.detach().float().numpy().copy() for name, each in found.items()}


def _joined(sums: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Sums of several phases as those of one batch."""
    if len(sums) == 1:
        return dict(*sums.values())
    others = {name: value for each in sums.values() for name, value in each.items()}
    return {**others, "loss": sum(each["loss"] for each in sums.values()),
            **{f"loss_{phase}": each["loss"] for phase, each in sums.items()}}


def _is_mean(whole: float, halves: float) -> bool:
    """Whether the loss of all rows looks like a mean, given the sum of those of both halves: then it is half of it."""
    return halves != 0 and abs(whole / halves - 0.5) < 0.1
