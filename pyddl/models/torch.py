"""A PyTorch module as a model: whatever a loss of its own can say, trained under every strategy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from pyddl import _check, _own, names
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import ParameterError, PyddlError
from pyddl.models.stages import Phase, Stage

if TYPE_CHECKING:
    from pyddl.models.torch_batch import TensorBatch

__all__ = ["Torch"]

Loss: TypeAlias = Callable[[Any, "TensorBatch"], Any]

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
        names, ``loss`` among them. ``batch`` is a `pyddl.models.torch_batch.TensorBatch`. By default ``loss`` of the
        file, or the module's own method ``loss(batch)``.
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

    def __init__(self, module: Any = None, loss: Loss | None = None, *, arguments: Mapping[str, Any] | None = None,
                 phases: Sequence[Phase] = (), stages: Sequence[Stage] = (), merge: Mapping[str, str] | None = None,
                 dtype: str = "float32", inputs: int | None = None):
        _require()
        from pyddl.models.torch_binding import Binding

        self.dtype = _check.one_of("dtype", dtype, names.DTYPES)
        self._make = _maker(module, dict(arguments or {}), inputs)
        self._given, self._arguments, self._inputs = module, arguments, inputs
        made = _Made(module) if self._make is None else self._make(0)
        if phases and stages:
            raise ParameterError("phases and stages are both given; expected one of them: stages are made of phases")
        given = stages or made.stages or ([Stage(tuple(phases))] if phases else [])
        self.module = made.module
        self._loss = loss or made.loss or _own_loss(made.module)
        self._merge = merge or made.merge
        self._binding = Binding(made.module, given, self._merge)
        self.layout, self.buffers, self.aliases = self._binding.layout, self._binding.buffers, self._binding.aliases
        if self._binding.stages:
            self.stages = self._binding.stages
        if inputs is not None:
            self.inputs = inputs
        if made.dtype == "bfloat16":
            self.dtype = made.dtype
        self._turns: dict[str, tuple[slice, frozenset[str]]] = {}
        self._names: tuple[str, ...] = ("loss",)

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> Torch:
        """The model for these rows."""
        return cls(inputs=data.features, **options)

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again, where a file makes it."""
        if not isinstance(self._given, str):
            return {"module": None, "dtype": self.dtype}
        path, _, member = self._given.rpartition(":")
        return {"module": f"{Path(path).resolve()}:{member}", "arguments": dict(self._arguments or {}),
                "inputs": self._inputs, "dtype": self.dtype}

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        self._binding.release()
        if self._make is not None:
            self._binding.take(self._make(seed).module)
        self._binding.save(parameters, buffers)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> float | Mapping[str, float]:
        import torch

        from pyddl.models.torch_batch import TensorBatch, generator_seed

        place, trained = self._turn(batch.phase)
        gradients[place].fill(0)
        if len(batch) == 0:
            return dict.fromkeys(self._names, 0.0)
        binding = self._binding
        binding.to(parameters, gradients, buffers)
        binding.train(trained)
        binding.load_copied()
        torch.default_generator.manual_seed(generator_seed(batch))
        with self._products():
            found = self._loss(self.module, TensorBatch(batch))
        loss, sums = _sums(found)
        loss.backward()
        binding.settle()
        return sums

    def _turn(self, phase: str) -> tuple[slice, frozenset[str]]:
        """Where the gradient of a phase lies, and its slices."""
        known = self._turns.get(phase)
        if known is None:
            named = {each.name: each for stage in getattr(self, "stages", ()) for each in stage.phases}
            groups = named[phase].groups if phase in named else ()
            begin, end = self.layout.range_of(groups)
            known = self._turns[phase] = slice(begin, end), frozenset(
                s.name for s in self.layout if begin <= s.begin < end)
        return known

    def _products(self) -> AbstractContextManager[Any]:
        """As `dtype` says."""
        import torch

        return torch.autocast("cpu", torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()

    # ---- afterwards

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows of what the loss gives, the module in eval mode."""
        import torch

        from pyddl.models.torch_batch import TensorBatch, generator_seed

        if len(batch) == 0:
            return dict.fromkeys(self._names, 0.0)
        with self._binding.bound(parameters, buffers) as module, self._products():
            torch.default_generator.manual_seed(generator_seed(batch))
            return _sums(self._loss(module, TensorBatch(batch)))[1]


class _Made(NamedTuple):
    """A module, and what belongs to it."""

    module: Any
    loss: Loss | None = None
    stages: Sequence[Stage] = ()
    merge: Mapping[str, str] | None = None
    dtype: str = "float32"


def _require() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ParameterError(INSTALL) from error


def _maker(given: Any, arguments: dict[str, Any], inputs: int | None) -> Callable[[int], _Made] | None:
    """What makes the module, by a seed; None where one is given."""
    import torch

    if isinstance(given, torch.nn.Module):
        if arguments:
            raise ParameterError(f"arguments are {arguments!r}, and the module is made already: give them to it, or "
                                 "give a function that makes one")
        return None
    file_loss = None
    if isinstance(given, str):
        function, file = _own.function_named("module", given)
        file_loss = vars(file).get("loss")
    elif callable(given):
        function = given
    else:
        raise ParameterError(f"module is {given!r}; expected {_own.FUNCTION}, a function in a file that makes a "
                             "PyTorch module, or in Python such a module")
    what = given if isinstance(given, str) else getattr(function, "__qualname__", repr(function))
    takes = _parameters(function)
    if inputs is not None and "inputs" in takes:
        arguments = {"inputs": inputs, **arguments}
    for name in arguments:
        if name not in takes and None not in takes:
            raise ParameterError(f"module {what} takes no argument {name!r}{_check.nearest(name, filter(None, takes))}")

    def make(seed: int) -> _Made:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                made = function(**arguments)
            except PyddlError:
                raise
            except Exception as error:
                raise ParameterError(f"module {what} cannot be made: {_own.said(error, _own.file_of(function))}"
                                     ) from error
        return _taken(made, what, file_loss)

    return make


def _parameters(function: Callable[..., Any]) -> list[str | None]:
    """Names of what a function takes by name; None among them where it takes any."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [None]
    return [None if each.kind is each.VAR_KEYWORD else each.name for each in found
            if each.kind not in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL)]


def _taken(made: Any, what: str, loss: Loss | None) -> _Made:
    """What such a function has returned."""
    import torch

    if isinstance(made, Torch):
        return _Made(made.module, made._loss, getattr(made, "stages", ()), made._merge, made.dtype)
    if isinstance(made, tuple) and len(made) == 2 and callable(made[1]):
        made, loss = made
    if not isinstance(made, torch.nn.Module):
        raise ParameterError(f"module {what} has made {type(made).__name__}; expected a torch.nn.Module, a module and "
                             "its loss, or a pyddl.models.Torch")
    return _Made(made, loss)


def _own_loss(module: Any) -> Loss:
    """The module's own method ``loss``."""
    import torch

    own = getattr(module, "loss", None)
    if own is None or isinstance(own, torch.nn.Module) or not callable(own):
        raise ParameterError(f"{type(module).__name__} comes without a loss: give loss(module, batch), or the module a "
                             "method loss(batch), which returns the sum of the losses of batch.rows")
    return lambda module, batch: module.loss(batch)


def _sums(found: Any) -> tuple[Any, dict[str, float]]:
    """The loss, and all sums as numbers."""
    import torch

    given = dict(found) if isinstance(found, Mapping) else {"loss": found}
    for name, value in given.items():
        if not isinstance(value, torch.Tensor | float | int) or (isinstance(value, torch.Tensor) and value.numel() != 1):
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
            raise ParameterError(f"{name} of the module's loss is {shape}; expected a scalar: the sum over the rows")
    loss = given.get("loss")
    if not isinstance(loss, torch.Tensor):
        raise ParameterError(f"the module's loss returned {found!r}; expected a scalar tensor, or a mapping of such "
                             "sums, loss among them")
    return loss, {name: value.item() if isinstance(value, torch.Tensor) else float(value)
                  for name, value in given.items()}
