"""What Python objects a module holds, as text: what a capture bakes in, and what ranks compare."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None), np.generic)

Array = Tensor | np.ndarray[Any, Any]

# Deeper objects are described by their class alone; objects that hold themselves would have no end.
_DEPTH = 8


def python_state(model: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """What a capture bakes in: every plain Python attribute of every submodule, modes included.

    A model whose attributes have changed since (``model.alpha = 0.5``) is captured anew. Lists, dicts and
    dataclasses of plain values are looked into; a parameter or buffer among them is its name, for a capture reads
    its values anew (an ``nn.LSTM`` keeps a list of its weights); any other tensor is the object that it is.
    """

    @functools.cache  # few modules hold arrays, and this runs in every call
    def state() -> dict[int, str]:
        return {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    def array(value: Array) -> str:
        return f"array {state().get(id(value), id(value))}"

    return tuple((path, name, describe(value, array)) for path, name, value in attributes(model))


def attributes(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """(module path, name, value) of every attribute that is not ``nn.Module``'s own bookkeeping."""
    bookkeeping = vars(nn.Module()).keys() - {"training"}
    for path, module in model.named_modules():
        for name, value in sorted(vars(module).items()):  # a copy may have been given them in another order
            if name not in bookkeeping and not isinstance(value, nn.Module):
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
