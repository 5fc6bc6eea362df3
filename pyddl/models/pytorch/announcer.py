"""Tells which gradients are final while the pass backward goes on, so that they travel to other nodes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from pyddl.data.batch import Ready
from pyddl.errors import ParameterError
from pyddl.layout import Slice

__all__ = ["Announcer"]


class Announcer:
    """Announces slices in one order, the last one first, whichever the module's gradients come in: ranks must agree.

    A slice is final once PyTorch has added up all gradients of its parameter, that of tied layers too, which it does
    once in a pass backward.

    Parameters
    ----------
    parameters : sequence of (Slice, Tensor)
    land : callable
        Brings the gradient of a parameter to where it travels from.
    """

    def __init__(self, parameters: Sequence[tuple[Slice, Tensor]], land: Callable[[Tensor], None]):
        self._parameters, self._land = parameters, land
        self._hooked = False
        self._ready: Ready | None = None
        self._waiting: list[tuple[Slice, Tensor]] = []
        self._final: set[str] = set()

    @contextmanager
    def during(self, ready: Ready, trained: frozenset[str]) -> Iterator[None]:
        """Within the block a pass backward is announced to ``ready``; what had no gradient in it follows at the end."""
        if not self._hooked:  # no earlier: a call for each parameter and step
            self._hooked = True
            for s, each in self._parameters:
                required = each.requires_grad
                each.requires_grad_(True).register_post_accumulate_grad_hook(partial(self._arrived, s))
                each.requires_grad_(required)
        self._waiting = [(s, each) for s, each in reversed(self._parameters) if s.name in trained]
        self._final.clear()
        self._ready = ready
        try:
            yield
        finally:
            self._ready = None
        for s, each in self._waiting:
            self._land(each)
            ready(s.begin, s.end)

    def announce_all(self, ready: Ready | None, trained: frozenset[str]) -> None:
        """The same without a pass backward, for no rows."""
        for s, _ in reversed(self._parameters):
            if ready is not None and s.name in trained:
                ready(s.begin, s.end)

    def _arrived(self, s: Slice, parameter: Tensor) -> None:
        if self._ready is None:
            return
        if s.name in self._final:
            raise ParameterError(f"parameter {s.name} has got a gradient twice in one pass backward, after its sum has "
                                 "begun to travel: give torch.utils.checkpoint use_reentrant=False")
        self._final.add(s.name)
        self._land(parameter)
        while self._waiting and self._waiting[0][0].name in self._final:
            done, _ = self._waiting.pop(0)
            self._ready(done.begin, done.end)
