"""A PyTorch module whose parameters, gradients and buffers are views of flat vectors: gradients are copied there once.

A tensor of the module stays the object that it is; its memory becomes that of the vectors (``tensor.data = view``), and
after training its own again.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pyddl import _check, _core
from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.pytorch.announcer import Announcer
from pyddl.models.pytorch.batch import tensor_of
from pyddl.models.stages import ALL, Phase, Stage

__all__ = ["FROZEN", "Binding", "counted", "is_compiled", "uncompiled"]

FROZEN = "(frozen)"
"""Group of the slices that no phase trains: no submodule is called so."""

EXACT = 1 << 24  # whole numbers up to here are float32


class Binding:
    """The tensors of a module, and where they lie in flat vectors.

    Parameters
    ----------
    module : nn.Module
    stages : sequence of Stage
        Of phases whose groups are names of submodules, or beginnings of names of parameters. Without any, all
        parameters are trained together.
    merge : mapping of str
        Merge rules of buffers, by patterns of names (``*.running_mean``); by default ``mean``, of whole numbers
        ``max``.

    Attributes
    ----------
    layout, buffers : Layout
        Slices under the names that the module's ``state_dict`` has, without those that ``torch.compile`` puts in.
    announcer : Announcer
        Of their gradients.
    stages : tuple of Stage
    aliases : dict of str
        Other names of tied tensors, and the names of their slices.

    Raises
    ------
    ParameterError
        A tensor is of another type than float32 (buffers may be whole numbers), or has no values yet; two share memory
        and are not one; a phase names nothing.
    """

    def __init__(self, module: nn.Module, stages: Sequence[Stage] = (), merge: Mapping[str, str] | None = None):
        self.module = module
        self.aliases: dict[str, str] = {}
        parameters = self._distinct(module.named_parameters(remove_duplicate=False))
        kept = {_plain(name) for name in module.state_dict()}
        buffers = {name: each for name, each in self._distinct(module.named_buffers(remove_duplicate=False)).items()
                   if name in kept}
        self.aliases = {name: of for name, of in self.aliases.items() if name in kept}
        _check_tensors(parameters, buffers, kept - set(self.aliases))
        self.stages, groups = _grouped(parameters, stages)
        self.layout = Layout(
            Slice(name, tuple(each.shape), group=groups[name], decay=each.ndim >= 2, order=_order(each))
            for name, each in sorted(parameters.items(), key=lambda item: list(groups.values()).index(groups[item[0]])))
        self.buffers = Layout(Slice(name, tuple(each.shape), merge=_merge(name, each, merge or {}))
                              for name, each in buffers.items())
        self._parameters = [(s, parameters[s.name]) for s in self.layout]
        self._buffers = [(s, buffers[s.name]) for s in self.buffers]
        self.announcer = Announcer(self._parameters, self.give_gradients_back)
        self._viewed = [(s, each) for s, each in self._buffers if each.dtype == torch.float32]
        self._copied = [(s, each) for s, each in self._buffers if each.dtype != torch.float32]
        self._holders: dict[str, tuple[dict[str, Any], str]] = {
            _plain(f"{path}.{name}" if path else name): (held, name) for path, holder in module.named_modules()
            for held in (holder._parameters, holder._buffers) for name in held}
        self._held = [self._holders[s.name] for s in self.layout]
        self._required = [each.requires_grad for _, each in self._parameters]
        self._own: list[tuple[Tensor, Tensor]] = []  # of each bound tensor: its own memory
        self._vectors: tuple[np.ndarray | None, ...] = (None, None, None)
        self._views: dict[int, tuple[weakref.ref[np.ndarray], list[Tensor]]] = {}  # of vectors that are still there
        self._grads: list[Tensor] = []
        self._places: list[int] = []  # addresses of the parameters' views
        self._watched: list[tuple[Tensor, Tensor | None, int, dict[str, Any], str]] = []
        self._trained: frozenset[str] | None = None

    def _distinct(self, named: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Each tensor under its first name."""
        first: dict[int, str] = {}
        out: dict[str, Tensor] = {}
        for path, each in named:
            name = _plain(path)
            if id(each) in first:
                self.aliases[name] = first[id(each)]
            else:
                first[id(each)], out[name] = name, each
        return out

    # ---- binding

    def to(self, parameters: np.ndarray, gradients: np.ndarray | None, buffers: np.ndarray) -> None:
        """Let the module's tensors be views of these vectors; at once where they are already."""
        bound = self._vectors
        if parameters is bound[0] and gradients is bound[1] and buffers is bound[2]:
            return
        if not self._own:
            self._own = [(each, each.data) for _, each in (*self._parameters, *self._buffers)]
            self._threads = torch.get_num_threads()
            self._random = torch.get_rng_state()
            torch.set_num_threads(_core.threads())
        if parameters is not bound[0]:
            views = self._views_of(parameters, self._parameters)
            for (_, each), view in zip(self._parameters, views, strict=True):
                each.data = view
            self._places = [view.data_ptr() for view in views]
        if buffers is not bound[2]:
            for (_, each), view in zip(self._viewed, self._views_of(buffers, self._viewed), strict=True):
                each.data = view
        self._grads = [] if gradients is None else self._views_of(gradients, self._parameters)
        self._vectors = parameters, gradients, buffers
        self._give_gradients()

    def _views_of(self, vector: np.ndarray, tensors: Sequence[tuple[Slice, Tensor]]) -> list[Tensor]:
        key, views = id(vector), self._views
        if key not in views:
            views[key] = (weakref.ref(vector, lambda _: views.pop(key, None)),
                          [tensor_of(s.view(vector)) for s, _ in tensors])
        return views[key][1]

    def train(self, names: frozenset[str]) -> None:
        """Let the parameters of these slices require a gradient, and no others."""
        if names != self._trained:
            self._trained = names
            for s, each in self._parameters:
                each.requires_grad_(s.name in names)
            self._give_gradients()

    def _give_gradients(self) -> None:
        self._watched.clear()
        for (_, each), view, place, held in zip(self._parameters, self._grads, self._places, self._held,
                                                strict=bool(self._grads)):
            each.grad = view if each.requires_grad else None
            self._watched.append((each, each.grad, place, *held))

    def take_gradients(self) -> None:
        """Let the pass backward make gradients in memory of its own, until `give_gradients_back`."""
        for each, _, _, _, _ in self._watched:
            each.grad = None

    def check_gradients(self) -> None:
        """Refuse gradients that are there before the trainer asks for some.

        Raises
        ------
        ParameterError
        """
        if any(each.grad is not None for each, _, _, _, _ in self._watched):
            raise ParameterError("the module's loss makes a pass backward itself: leave loss.backward() out, the "
                                 "trainer does it; slopes that a loss is made of come from torch.autograd.grad")

    def give_gradients_back(self, parameter: Tensor | None = None) -> None:
        """Copy that of a parameter, or of all, to where the vector has it, zeros where there is none, and let it lie
        there.

        Measured, 784-256-64-256-784 with 32 rows: 76 us, where zeros that PyTorch adds to in place take 222.
        """
        views, found = [], []
        for each, view, _, _, _ in self._watched:
            if view is None or each.grad is view or (parameter is not None and each is not parameter):
                continue
            if each.grad is None:
                view.zero_()
            else:
                views.append(view)
                found.append(_dense(each.grad))
            each.grad = view
        if views:
            torch._foreach_copy_(views, found)

    def load_copied(self) -> None:
        """Give buffers that are no views what the vector says."""
        vector = self._vectors[2]
        assert vector is not None
        for s, each in self._copied:
            each.copy_(torch.from_numpy(s.view(vector)))

    def settle(self) -> None:
        """After a gradient: see that all memory is still the vectors', and write back buffers that are no views.

        Raises
        ------
        ParameterError
            The module has changed where a parameter or its gradient lies.
        """
        for each, view, place, held, name in self._watched:
            if each.grad is not view or each.data_ptr() != place or held.get(name) is not each:
                self._refuse(each, view, place)
        if self._buffers:
            self.settle_buffers()

    def _refuse(self, moved: Tensor, view: Tensor | None, place: int) -> None:
        name = next(s.name for s, each in self._parameters if each is moved)
        if moved.grad is not view:
            raise ParameterError(f"the module or its loss has replaced the gradient of parameter {name}, which pyddl "
                                 "sums up where it lies: leave zero_grad and optimizers out, the trainer does their "
                                 "work")
        what = f"moved parameter {name} to other memory"
        if moved.data_ptr() == place:
            what = f"put another one in the place of parameter {name}"
        raise ParameterError(f"the module or its loss has {what}, which training does not see: change values in place "
                             "(copy_, mul_), or not at all")

    def settle_buffers(self) -> None:
        vector = self._vectors[2]
        assert vector is not None
        for s, each in self._buffers:
            held, name = self._holders[s.name]
            found = held[name]
            if found is not each:  # the module has put another tensor in its place
                held[name] = each
                with torch.no_grad():
                    each.copy_(found)
        for s, each in self._copied:
            s.view(vector)[...] = _exact(s.name, each)

    def release(self) -> None:
        """Give the module's tensors their own memory back, as they were before."""
        if not self._own:
            return
        for each, own in self._own:
            each.data = own
        for (_, each), required in zip(self._parameters, self._required, strict=True):
            each.grad = None
            each.requires_grad_(required)
        torch.set_num_threads(self._threads)
        torch.set_rng_state(self._random)
        self._views.clear()
        self._own, self._grads, self._trained = [], [], None
        self._vectors = (None, None, None)

    @contextmanager
    def bound(self, parameters: np.ndarray, buffers: np.ndarray) -> Iterator[None]:
        """The module with these values, as in `serving`."""
        self.to(parameters, None, np.array(buffers))
        try:
            with self.serving():
                self.load_copied()
                yield
        finally:
            self.release()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The module in eval mode, without gradients; afterwards modes, buffers and PyTorch's generator are as they
        were."""
        modes = [(each, each.training) for each in self.module.modules()]
        kept = [(each, each.clone()) for _, each in self._buffers]
        self.module.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                yield
                for each, values in kept:
                    each.copy_(values)
        finally:
            for each, training in modes:
                each.training = training

    # ---- values

    def save(self, parameters: np.ndarray, buffers: np.ndarray) -> None:
        """Write the module's values to the vectors."""
        for vector, tensors in ((parameters, self._parameters), (buffers, self._buffers)):
            for s, each in tensors:
                s.view(vector)[...] = _exact(s.name, each)

    def take(self, other: nn.Module) -> None:
        """Give the module the values of another one that was made alike."""
        theirs = {_plain(name): each for name, each in (*other.named_parameters(), *other.named_buffers())}
        with torch.no_grad():
            for s, each in (*self._parameters, *self._buffers):
                if s.name not in theirs or theirs[s.name].shape != each.shape:
                    raise ParameterError(f"what makes the module has made another one the second time, without {s.name}"
                                         f" of shape {s.shape}: it should depend on its arguments only")
                each.copy_(theirs[s.name])

    def load(self, parameters: np.ndarray, buffers: np.ndarray) -> None:
        """Give the module's tensors these values, in its own memory."""
        self.release()
        with torch.no_grad():
            for vector, tensors in ((parameters, self._parameters), (buffers, self._buffers)):
                for s, each in tensors:
                    each.copy_(torch.from_numpy(np.array(s.view(vector))))


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` has made it, of a module."""
    return isinstance(getattr(module, "_orig_mod", None), nn.Module)


def uncompiled() -> AbstractContextManager[object]:
    """Within it modules that `torch.compile` has made run as they were written: for a few rows nothing is compiled."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Gives what says how many floating-point operations of products and convolutions the block has done."""
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings(), counter:
        warnings.simplefilter("ignore")  # it hooks itself into modules, compiled ones too
        yield counter.get_total_flops


def _dense(gradient: Tensor) -> Tensor:
    """The gradient of a sparse embedding with all its zeros."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def _plain(name: str) -> str:
    """A name without what `torch.compile` puts in."""
    return name.replace("_orig_mod.", "")


def _exact(name: str, tensor: Tensor) -> np.ndarray:
    """Its values, whole numbers as float32."""
    values = tensor.detach()
    if not values.dtype.is_floating_point:
        if name.endswith("num_batches_tracked"):  # BatchNorm's own, which may well stop there
            values = values.clamp(max=EXACT)
        elif values.numel() and values.double().abs().max() > EXACT:
            raise ParameterError(f"buffer {name} holds whole numbers beyond {EXACT}, which pyddl keeps as float32, not "
                                 "exactly: register it with persistent=False, or as smaller numbers")
    return values.to(torch.float32).numpy()


def _order(parameter: Tensor) -> tuple[int, ...] | None:
    """The axes of a tensor as they follow in memory, the slowest first; None where that is their order, or where its
    memory has holes."""
    if parameter.is_contiguous():
        return None
    order = tuple(sorted(range(parameter.ndim), key=lambda axis: -parameter.stride(axis)))
    return order if parameter.permute(order).is_contiguous() else None


def _merge(name: str, buffer: Tensor, rules: Mapping[str, str]) -> str:
    usual = "mean" if buffer.dtype.is_floating_point else "max"
    return next((rule for pattern, rule in rules.items() if fnmatchcase(name, pattern)), usual)


def _check_tensors(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], kept: set[str]) -> None:
    """Refuse what cannot lie in float32 vectors."""
    if not parameters:
        raise ParameterError("the module has no parameters: there is nothing to train")
    if strange := sorted(kept - set(parameters) - set(buffers)):
        raise ParameterError(f"the module keeps {strange[0]} in its state_dict, which is neither a parameter nor a "
                             "buffer, and pyddl cannot hold it: let get_extra_state be")
    begins: list[tuple[int, str]] = []
    for name, each in (*parameters.items(), *buffers.items()):
        if isinstance(each, nn.parameter.UninitializedTensorMixin):
            raise ParameterError(f"parameter {name} has no shape yet: call the module on a few rows first")
        what = "parameter" if name in parameters else "buffer"
        if each.device.type != "cpu":
            raise ParameterError(f"{what} {name} is on {each.device}; pyddl trains on CPUs: move the module there")
        if each.dtype in (torch.float64, torch.complex64, torch.complex128) or (
                name in parameters and each.dtype != torch.float32):
            raise ParameterError(f"{what} {name} is {str(each.dtype).removeprefix('torch.')}, and pyddl's vectors are "
                                 "float32: make it module.float(); for products in bfloat16 give dtype='bfloat16', or "
                                 "use torch.autocast in the loss")
        if each.is_sparse or each.layout != torch.strided:
            raise ParameterError(f"{what} {name} is sparse; expected a dense tensor")
        if each.numel():
            begins.append((each.data_ptr(), name))
    begins.sort()
    for (first, one), (second, other) in pairwise(begins):
        if first == second:
            raise ParameterError(f"{one} and {other} share memory and are two tensors: to tie them, let both names "
                                 "have the same nn.Parameter")


def _grouped(parameters: Mapping[str, Tensor], given: Sequence[Stage]) -> tuple[tuple[Stage, ...], dict[str, str]]:
    """Stages as the layout's groups have them, and the group of each parameter: in the order of the groups."""
    trainable = [name for name, each in parameters.items() if each.requires_grad]
    prefixes = list(dict.fromkeys(group for stage in given for phase in stage.phases for group in phase.groups))
    for prefix in prefixes:
        if not any(_begins(name, prefix) for name in trainable):
            tops = sorted({name.split(".")[0] for name in parameters})
            raise ParameterError(f"phases name {prefix!r}, and no parameter that requires a gradient is called so, or "
                                 f"begins so: the module's begin with {', '.join(tops)}{_check.nearest(prefix, tops)}")
    if not trainable:
        raise ParameterError("no parameter of the module requires a gradient: there is nothing to train")
    groups = {}
    for prefix in prefixes or [ALL]:
        for name in trainable:
            if not prefixes or (_begins(name, prefix) and all(
                    len(other) <= len(prefix) or not _begins(name, other) for other in prefixes)):
                groups[name] = prefix
    names = list(dict.fromkeys(groups.values()))
    groups |= {name: FROZEN for name in parameters if name not in groups}
    if not given and len(trainable) < len(parameters):
        given = [Stage((Phase(ALL),))]

    def trained(phase: Phase) -> Phase:
        own = [name for name in names if not phase.groups or any(_begins(name, group) for group in phase.groups)]
        return replace(phase, groups=tuple(own))

    return tuple(replace(stage, phases=tuple(map(trained, stage.phases))) for stage in given), groups


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
