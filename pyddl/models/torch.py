"""A PyTorch module as a model: whatever a loss of its own can say, trained under every strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl import _check, _own, names
from pyddl.data.batch import Batch
from pyddl.data.prefetch import label_buffer
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, PyddlError
from pyddl.models.stages import ALL, Phase, Stage

if TYPE_CHECKING:
    from pyddl.models.pytorch.batch import TensorBatch
    from pyddl.models.pytorch.made import Loss

__all__ = ["Torch"]

FEW = 8  # rows that the loss is tried on
CHUNK = 500  # rows that pass through the module at once
MEAN = ("the module's loss looks like a mean over the rows, and pyddl expects their sum: figures and step sizes are "
        "too small by the number of rows (reduction='sum')")
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
        from pyddl.models.pytorch import binding, made

        if phases and stages:
            raise ParameterError("phases and stages are both given; expected one of them: stages are made of phases")
        _check.one_of("dtype", dtype, names.DTYPES)
        made.check_loss(loss)
        self._again = partial(Torch, module, loss, arguments=arguments, phases=phases, stages=stages, merge=merge,
                              dtype=dtype, inputs=inputs)
        self._given, self._arguments, self._inputs = module, dict(arguments or {}), inputs
        self._make = made.maker(module, self._arguments, inputs)
        first = self._make(torch.initial_seed())  # of whoever makes this model
        self.made = first._replace(loss=loss or first.loss or made.loss_of(first.module, first.beside),
                                   stages=stages or ([Stage(tuple(phases))] if phases else first.stages),
                                   merge=merge or first.merge, dtype=max(dtype, first.dtype, key=names.DTYPES.index))
        self._binding = binding.Binding(self.module, self.made.stages, self.made.merge)
        self.layout, self.buffers, self.aliases = self._binding.layout, self._binding.buffers, self._binding.aliases
        if self._binding.stages:
            self.stages = self._binding.stages
        if inputs is not None:
            self.inputs = inputs
        self._turns = dict(self._turns_of_phases())
        self._names: dict[str, tuple[str, ...]] = {}  # of the sums, by phase
        self._advice: list[str] = []
        self._operations = 0  # floating-point ones of a gradient, per row, where they could be counted
        self._differentiates = False  # whether the loss itself asks for gradients, as penalties on slopes do
        for member in ("encode", "reconstruct", "sample", "pictures"):
            if callable(getattr(self.module, member, None)):
                setattr(self, member, getattr(self, f"_{member}"))

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

    def _turns_of_phases(self) -> Iterator[tuple[str, tuple[int, slice, frozenset[str]]]]:
        """Of each phase: its number, where its gradient lies, and which slices are trained."""
        stages = self._binding.stages or (Stage((Phase(ALL),)),)
        for number, phase in [each for stage in stages for each in enumerate(stage.phases)]:
            begin, end = self.layout.range_of(phase.groups)
            yield phase.name, (number, slice(begin, end), frozenset(
                s.name for s in self.layout if begin <= s.begin < end))

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        self._binding.release()
        made = self._make(seed).module
        if made is not self.module:
            self._binding.take(made)
        self._binding.save(parameters, buffers)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> float | Mapping[str, float]:
        _, place, trained = self._turns[batch.phase]
        gradients[place].fill(0)
        if len(batch) == 0:
            with self._binding.announcer.during(batch.ready, trained):
                return self._of_nothing(batch.phase)
        self._binding.to(parameters, gradients, buffers)
        self._binding.train(trained)
        self._binding.load_copied()
        sums = self._sums(batch, batch.phase, backward=True)
        self._binding.settle()
        return sums

    def _sums(self, batch: Batch, phase: str, *, backward: bool = False) -> dict[str, float]:
        """What the loss gives for these rows in the turn of a phase, as numbers; and its gradient."""
        import torch

        from pyddl.models.pytorch.batch import TensorBatch, generator_seed
        from pyddl.models.pytorch.made import sums_of

        turn = batch.turn if backward else self._turns[phase][0]
        tensors = TensorBatch(batch, phase, turn)
        torch.default_generator.manual_seed(generator_seed(batch, turn))
        with self._said("the module's loss", tensors):
            with self._products(), torch.set_grad_enabled(backward or self._differentiates):
                loss, sums = sums_of(self.made.loss(self.module, tensors))  # type: ignore[misc]
            if backward:
                if not loss.requires_grad:
                    raise ParameterError(f"the module's loss does not depend on any parameter that phase {phase} trains"
                                         ": was it detached, or computed under torch.no_grad?")
                with self._binding.announcer.during(batch.ready, self._turns[phase][2]):
                    loss.backward()
        self._names[phase] = tuple(sums)
        return sums

    def _of_nothing(self, phase: str) -> dict[str, float]:
        return dict.fromkeys(self._names.get(phase, ("loss",)), 0.0)

    def _products(self) -> AbstractContextManager[Any]:
        """As `dtype` says."""
        import torch

        return torch.autocast("cpu", torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()

    @contextmanager
    def _said(self, what: str, tensors: TensorBatch | None = None) -> Iterator[None]:
        """Within the block, what code of the user's raises becomes an error in one line."""
        try:
            yield
        except (PyddlError, MemoryError):
            raise
        except Exception as error:
            if "DefaultCPUAllocator" in str(error):
                raise MemoryError(str(error).strip().splitlines()[0]) from error
            if tensors is not None and tensors.lacks_labels:
                raise DataError(f"{what} asks for labels, and the rows have none: give them with --labels, or a source "
                                f"that has some ({_own.said(error)})") from error
            raise _own.failed(f"{what} raised {_own.said(error)}") from error

    def finish(self, parameters: np.ndarray, buffers: np.ndarray) -> None:
        """Give the module these values, in memory of its own."""
        self._binding.load(parameters, buffers)

    # ---- the module as it serves

    @property
    def _scored(self) -> list[str]:
        """The phases whose losses are scores: those of the last stage."""
        return [each.name for each in self._binding.stages[-1].phases] if self._binding.stages else [ALL]

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows of what the loss gives, the module in eval mode: of several phases ``loss`` is the sum of
        their losses, and ``loss_PHASE`` each."""
        if len(batch) == 0:
            return _joined({phase: self._of_nothing(phase) for phase in self._scored})
        with self._binding.bound(parameters, buffers):
            return _joined({phase: self._sums(batch, phase) for phase in self._scored})

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
                self._differentiates = True
                with suppress(ParameterError):
                    self._try(batch)
                    return
                raise error

    def _try(self, batch: Batch) -> None:
        from pyddl.models.pytorch.binding import counted

        count = len(batch)
        self._operations, self._advice = 0, []
        for phase in self._scored:
            with nullcontext(int) if self._differentiates else counted() as done:  # which fails with such losses
                whole = self._sums(batch, phase)["loss"]
            self._operations += 3 * done() // count  # the pass backward is two of those forward
            halves = [self._sums(batch.part(*part), phase)["loss"] for part in ((0, count // 2), (count // 2, count))
                      if count > 1]
            if halves and _is_mean(whole, sum(halves)):
                self._advice = [MEAN]

    def warnings(self, parameters: np.ndarray, buffers: np.ndarray, line: Mapping[str, Any],
                 shown: np.ndarray | None) -> list[str]:
        """Once: that the loss looks like a mean."""
        advice, self._advice = self._advice, []
        return advice

    def _encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What the module's ``encode(rows)`` makes of them."""
        return self._of_rows("encode", parameters, buffers, rows)

    def _reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What the module's ``reconstruct(rows)`` makes of them."""
        return self._of_rows("reconstruct", parameters, buffers, rows)

    def _of_rows(self, member: str, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        with self._binding.bound(parameters, buffers):
            parts = [self._called(member, rows[begin : begin + CHUNK], count=len(rows[begin : begin + CHUNK]))
                     for begin in range(0, max(1, len(rows)), CHUNK)]
        return np.concatenate(parts)

    def _sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int) -> np.ndarray:
        """So many rows of the module's ``sample(count)``, PyTorch's generator seeded."""
        import torch

        with self._binding.bound(parameters, buffers):
            torch.manual_seed(seed)
            return self._called("sample", count, count=count)

    def _pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures of the module's ``pictures(rows)``, by their names."""
        import torch

        with self._binding.bound(parameters, buffers), self._said("pictures of the module"):
            found = self.module.pictures(torch.from_numpy(np.array(rows, dtype=np.float32)))
        return {name: each.detach().float().numpy() for name, each in found.items()}

    def _called(self, member: str, given: Any, *, count: int) -> np.ndarray:
        """What a method of the module gives: a row of float32 for each."""
        import torch

        with self._said(f"{member} of the module"), self._products():
            found = getattr(self.module, member)(torch.from_numpy(given) if isinstance(given, np.ndarray) else given)
        if not isinstance(found, torch.Tensor) or found.ndim == 0 or len(found) != count:
            what = f"of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ParameterError(f"{member} of the module returned {what}; expected a tensor of {count} rows")
        return found.float().reshape(count, -1).numpy().copy()


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
