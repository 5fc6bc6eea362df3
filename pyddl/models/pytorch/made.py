"""Where a PyTorch module and its loss come from: given as they are, made by a function, or by one in a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pyddl import _check, _own
from pyddl.errors import ParameterError, PyddlError
from pyddl.models.pytorch.batch import TensorBatch
from pyddl.models.stages import Stage

__all__ = ["Loss", "Made", "check_loss", "loss_of", "maker", "no_updates", "own_loss"]

Loss: TypeAlias = Callable[[torch.nn.Module, TensorBatch], Any]


class Made(NamedTuple):
    """A module, and what belongs to it."""

    module: torch.nn.Module
    loss: Loss | None = None
    beside: Loss | None = None
    """A function ``loss`` of the file, for a module that has none itself."""
    stages: Sequence[Stage] = ()
    merge: Mapping[str, str] | None = None
    dtype: str = "float32"


def maker(given: Any, arguments: Mapping[str, Any], inputs: int | None) -> Callable[[int], Made]:
    """What makes the module, by a seed; the same each time where it is made already.

    Raises
    ------
    ParameterError
        It is nothing that makes one, or does not take these arguments.
    """
    if isinstance(given, torch.nn.Module):
        if arguments:
            raise ParameterError(f"arguments are {dict(arguments)}, and the module is made already: give them to it, "
                                 "or give a function that makes one")
        return lambda seed: Made(given)
    function, beside = _function(given)
    what = given if isinstance(given, str) else getattr(function, "__qualname__", repr(function))
    takes = _names_taken(function)
    if inputs is not None and "inputs" in takes:
        arguments = {"inputs": inputs, **arguments}
    for name in arguments:
        if name not in takes and None not in takes:
            near = _check.nearest(name, [each for each in takes if each])
            raise ParameterError(f"module {what} takes no argument {name!r}{near}")

    def make(seed: int) -> Made:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                made = function(**arguments)
            except PyddlError:
                raise
            except Exception as error:
                raise _own.failed(f"module {what} cannot be made: {_own.said(error)}") from error
        return _taken(made, what, beside)

    return make


def _function(given: Any) -> tuple[Callable[..., Any], Loss | None]:
    """What makes the module, and the loss that lies beside it."""
    if isinstance(given, str):
        function, file = _own.function_named("module", given)
        if isinstance(function, torch.nn.Module):
            raise ParameterError(f"module is {given!r}, which is a module already; expected {_own.FUNCTION}, a "
                                 "function that makes one: def make_model(): return ...")
        return function, vars(file).get("loss")
    if callable(given):
        return given, None
    if given is None:
        raise ParameterError(f"module is missing: expected {_own.FUNCTION}, a function in a file that makes it. (A run "
                             "whose module was an object of Python cannot make it again: what was trained is in its "
                             "model.safetensors, for load_state_dict)")
    raise ParameterError(f"module is {given!r}; expected a torch.nn.Module, a function that makes one, or "
                         f"{_own.FUNCTION}")


def _names_taken(function: Callable[..., Any]) -> list[str | None]:
    """Names of what a function takes by name; None among them where it takes any."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [None]
    return [None if each.kind is each.VAR_KEYWORD else each.name for each in found
            if each.kind not in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL)]


def _taken(made: Any, what: str, beside: Loss | None) -> Made:
    """What such a function has returned."""
    if isinstance(whole := getattr(made, "made", None), Made):  # of a pyddl.models.Torch
        return whole
    loss = None
    if isinstance(made, tuple) and len(made) == 2 and callable(made[1]):
        made, loss = made
    if not isinstance(made, torch.nn.Module):
        raise ParameterError(f"module {what} has made {type(made).__name__}; expected a torch.nn.Module, a module and "
                             "its loss, or a pyddl.models.Torch")
    return Made(made, loss, beside)


def check_loss(loss: Any) -> None:
    """Refuse a loss that is no function of module and batch."""
    if loss is not None and (isinstance(loss, torch.nn.Module) or not callable(loss)):
        raise ParameterError(f"loss is {loss!r}; expected a function of module and batch, such as def loss(module, "
                             "batch): return mse_loss(module(batch.rows), batch.rows, reduction='sum')")


def own_loss(module: Any, batch: TensorBatch) -> Any:
    """What the module's own method ``loss`` gives."""
    return module.loss(batch)


def loss_of(module: torch.nn.Module, beside: Loss | None = None) -> Loss:
    """The module's own method ``loss``, or the function that lies beside what makes it."""
    own = getattr(module, "loss", None)
    if own is not None and not isinstance(own, torch.nn.Module) and callable(own):
        return own_loss
    if beside is None:
        raise ParameterError(f"{type(module).__name__} comes without a loss: give loss(module, batch), or the module a "
                             "method loss(batch), which returns the sum of the losses of batch.rows")
    return beside


@contextmanager
def no_updates(module: torch.nn.Module) -> Iterator[None]:
    """Within the block, an optimizer that would move the module's parameters is refused: the trainer's does that."""

    def refuse(optimizer: torch.optim.Optimizer, *given: Any) -> None:
        own = {id(each) for each in module.parameters()}
        if any(id(each) in own for group in optimizer.param_groups for each in group["params"]):
            raise ParameterError(f"the module's loss makes a step of {type(optimizer).__name__}: leave optimizers, "
                                 "zero_grad and backward out, the trainer does their work")

    hook = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()
