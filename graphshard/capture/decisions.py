"""What forward decides by buffers alone (``if self.calls < limit``): a program follows one way, on every rank the same.

::

    capture    self.calls < 3  -->  True on the buffers of now: the tape [lt(calls, 3), decide True], and a program
    a call     the tape on the buffers of then: still True? the program runs; else the other way is captured

A buffer that forward wrote to with values of the graph decides nothing: what depends on it is refused as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from graphshard.private import pytree
from graphshard.private.torch_functions import outside_of_tracing
from graphshard.private.torch_tensors import version_of

__all__ = ["Decider", "Decisions", "may_decide"]


@dataclass(frozen=True)
class _Value:
    """Stands for a value on the tape: a buffer, or the result of a call."""

    number: int


@dataclass(frozen=True)
class _Call:
    func: Callable[..., Any]
    args: Any
    kwargs: Any
    results: Sequence[int]


@dataclass(frozen=True)
class _Decision:
    value: _Value
    found: bool


@dataclass
class Decisions:
    """The way that a program follows.

    Attributes:
        buffers: ``state_dict`` name -> its number on the tape.
        tape: calls of functions on buffers, and the truths that forward read of them, in order.
    """

    buffers: dict[str, int] = field(default_factory=dict)
    tape: list[_Call | _Decision] = field(default_factory=list)

    @property
    def found(self) -> list[bool]:
        """What it decided, in order."""
        return [step.found for step in self.tape if isinstance(step, _Decision)]

    def trimmed(self) -> Decisions:
        """The same with the calls alone that a decision depends on, and the buffers that these read."""
        needed: set[int] = set()
        kept: list[_Call | _Decision] = []
        for step in reversed(self.tape):
            if isinstance(step, _Decision):
                needed.add(step.value.number)
            elif needed.isdisjoint(step.results):
                continue
            else:
                leaves = pytree.tree_leaves((step.args, step.kwargs))
                needed |= {v.number for v in leaves if isinstance(v, _Value)}
            kept.insert(0, step)
        return Decisions({name: number for name, number in self.buffers.items() if number in needed}, kept)

    @torch.no_grad()
    def hold(self, buffers: Mapping[str, Tensor]) -> bool:
        """Whether forward would decide the same on these buffers, which stay as they are."""
        if not self.tape:
            return True
        values = {number: buffers[name].detach().clone() for name, number in self.buffers.items()}
        for step in self.tape:
            if isinstance(step, _Decision):
                if bool(values[step.value.number]) != step.found:
                    return False
                continue
            args, kwargs = pytree.tree_map(
                lambda v: values[v.number] if isinstance(v, _Value) else v, (step.args, step.kwargs)
            )
            found = pytree.tree_leaves(step.func(*args, **kwargs))
            values.update(zip(step.results, (v for v in found if isinstance(v, Tensor)), strict=True))
        return True


_FEW = 4096


def may_decide(buffer: Tensor) -> bool:
    """Whether it is one that a program may look at in every call: strided, of few numbers."""
    return buffer.layout is torch.strided and not is_lazy(buffer) and buffer.numel() <= _FEW


class Decider(TorchFunctionMode):
    """While a model is traced: the truth of what depends on buffers alone is that of the real buffers.

    Args:
        buffers: the real ones by name. traced: what stands for them, by the same names.
    """

    def __init__(self, buffers: Mapping[str, Tensor], traced: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.decisions = Decisions()
        self._known: dict[int, tuple[Tensor, Tensor, int]] = {}
        for number, (name, tensor) in enumerate(traced.items()):
            self.decisions.buffers[name] = number
            with outside_of_tracing():
                self._known[id(tensor)] = (tensor, buffers[name].detach().clone(), number)
        self._next = len(self._known)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        known = [t for t in tensors if id(t) in self._known]
        if not known:
            return func(*args, **kwargs)
        if len(known) < len(tensors):
            return self._written_with_others(func, args, kwargs, known)
        if func is Tensor.__bool__:
            return self._decided(args[0])
        found = func(*args, **kwargs)
        self._follow(func, args, kwargs, found)
        return found

    def _decided(self, value: Tensor) -> bool:
        _, real, number = self._known[id(value)]
        with outside_of_tracing():
            truth = bool(real)
        self.decisions.tape.append(_Decision(_Value(number), truth))
        return truth

    def _follow(self, func: Callable[..., Any], args: Any, kwargs: Any, found: Any) -> None:
        """Do on the real values what was traced; what draws random numbers is not known any more."""
        leaves = [v for v in pytree.tree_leaves(found) if isinstance(v, Tensor)]
        if not leaves:
            return
        real = self._mapped(lambda entry: entry[1], args, kwargs)
        with torch.no_grad(), outside_of_tracing():
            before = torch.get_rng_state()
            results = [v for v in pytree.tree_leaves(func(*real[0], **real[1])) if isinstance(v, Tensor)]
            draws = not torch.equal(before, torch.get_rng_state())
            torch.set_rng_state(before)
        if draws:
            self._forget([v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)])
            return
        placed = self._mapped(lambda entry: _Value(entry[2]), args, kwargs)
        numbers = []
        for traced, value in zip(leaves, results, strict=True):
            old = self._known.get(id(traced))
            number = self._next if old is None else old[2]
            self._next += old is None
            self._known[id(traced)] = (traced, value, number)
            numbers.append(number)
        self.decisions.tape.append(_Call(func, placed[0], placed[1], numbers))

    def _mapped(self, take: Callable[[Any], Any], args: Any, kwargs: Any) -> Any:
        return pytree.tree_map(
            lambda v: take(self._known[id(v)]) if isinstance(v, Tensor) else v, (tuple(args), dict(kwargs))
        )

    def _written_with_others(
        self, func: Callable[..., Any], args: Any, kwargs: Any, known: list[Tensor]
    ) -> Any:
        """A function of buffers and of the graph: what it writes to depends on the graph from now on."""
        before = [version_of(t) for t in known]
        found = func(*args, **kwargs)
        self._forget([t for t, version in zip(known, before, strict=True) if version_of(t) != version])
        return found

    def _forget(self, written: Sequence[Tensor]) -> None:
        """Nothing more is known of these, nor of what shares their memory."""
        places = {self._known[id(t)][1].untyped_storage().data_ptr() for t in written}
        for key, (_, real, _) in list(self._known.items()):
            if real.untyped_storage().data_ptr() in places:
                del self._known[key]
