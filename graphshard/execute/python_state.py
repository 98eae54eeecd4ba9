"""What Python objects a module holds, as text: what a capture bakes in, and what ranks compare."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphshard.capture.reads import Reads
from graphshard.capture.writes import Attribute
from graphshard.private.torch_modules import BOOKKEEPING

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None), np.generic)

Array = Tensor | np.ndarray[Any, Any]

# Deeper objects are described by their class alone; objects that hold themselves would have no end.
_DEPTH = 8


class Key:
    """What a capture bakes in, hashed once."""

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts, self._hash = parts, hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Key) and self.parts == other.parts)


class Observed:
    """The Python state that one distributed module's forward can read, as a key that changes with it.

    Attributes:
        written: what its programs leave on the module, which no forward reads.
    """

    def __init__(self) -> None:
        self.written: frozenset[Attribute] = frozenset()
        self._reads: Reads | None = None
        self._key = Key(())

    def key(self, model: nn.Module) -> Key:
        """Equal where a capture would bake in the same: every plain value that forward reaches, the modules, their
        modes, hooks and code, and the shapes of parameters and buffers, not their values."""
        if self._reads is None or not self._reads.guards.hold():
            self._reads = Reads(model, self.written)
            self._key = Key(self._reads.key)
        return self._key

    def add(self, written: Sequence[Attribute]) -> None:
        """Programs leave something in these attributes: from now on they are not looked at."""
        self.written |= frozenset(written)
        self._reads = None

    def facts(self, array: Callable[[Array], str]) -> Iterator[tuple[str, str]]:
        """(place, value) as text of what forward reads outside of modules."""
        if self._reads is not None:
            for place, value in self._reads.facts():
                yield place, describe(value, array)


def attributes(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """(module path, name, value) of every attribute that is not ``nn.Module``'s own bookkeeping."""
    for path, module in model.named_modules():
        for name, value in sorted(vars(module).items()):  # a copy may have been given them in another order
            if name not in BOOKKEEPING and not isinstance(value, nn.Module):
                yield path, name, value


def describe(value: Any, array: Callable[[Array], str], depth: int = _DEPTH) -> str:
    """``value`` as text that is equal in two processes where the values are.

    Args:
        value: any object; of one that holds no plain values the class is all that is said.
        array: describes a tensor or a NumPy array.
        depth: how many containers are opened.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return array(value)
    if isinstance(value, Enum):
        return f"{_named(type(value))}.{value.name}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return _named(value)
    inside = _inside(value) if depth else None
    if inside is None:
        return _named(type(value))
    found = [describe(part, array, depth - 1) for part in inside]
    # The order of a set differs between processes.
    return f"{type(value).__qualname__}({', '.join(sorted(found) if isinstance(value, Set) else found)})"


def _inside(value: Any) -> list[Any] | None:
    """What a container or a record holds; None of any other object."""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.SimpleNamespace):
        value = vars(value)
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, Mapping):
        return list(value.items())
    return list(value) if isinstance(value, (list, tuple, Set)) else None


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
