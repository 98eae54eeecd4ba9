"""Python numbers of tensors while a model is exported.

``int(tensor)`` and ``float(tensor)`` become ``tensor.item()``, ``len(tensor)`` becomes ``tensor.size(0)``: Python's
own must return a number at once, which an export has not got, and a ``len`` would fix the number of rows. PyG
writes ``int(index.max()) + 1`` and ``int(batch.max()) + 1`` in many places.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.private.pyg import loaded_modules


class _SameInstances(type):
    """``isinstance(x, int)`` keeps its meaning where ``int`` is the shim."""

    real: type = int

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.real)


class _Int(metaclass=_SameInstances):
    """``int`` for tensors and symbolic numbers; the real one for anything else."""

    real = int

    def __new__(cls, value: Any = 0, *args: Any) -> Any:
        if isinstance(value, Tensor):
            number = value.item()
            return number if isinstance(number, torch.SymInt) else torch.sym_int(number)  # type: ignore[no-untyped-call]
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return torch.sym_int(value)  # type: ignore[no-untyped-call]
        return builtins.int(value, *args)


class _Float(metaclass=_SameInstances):
    """``float`` for tensors and symbolic numbers; the real one for anything else."""

    real = float

    def __new__(cls, value: Any = 0.0) -> Any:
        if isinstance(value, Tensor):
            return torch.sym_float(value.item())  # type: ignore[no-untyped-call]
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return torch.sym_float(value)  # type: ignore[no-untyped-call]
        return builtins.float(value)


def _len(value: Any) -> Any:
    """``len`` that keeps the symbol of a tensor's number of rows."""
    return value.size(0) if isinstance(value, Tensor) and value.dim() else builtins.len(value)


@contextlib.contextmanager
def symbolic_numbers(model: nn.Module) -> Iterator[None]:
    """Let ``int()``, ``float()`` and ``len()`` of PyG and of the files that define the model's modules keep symbols."""
    changed: list[tuple[ModuleType, str]] = []
    try:
        for module in _modules_of(model):
            for name, shim in (("int", _Int), ("float", _Float), ("len", _len)):
                if name not in vars(module):
                    setattr(module, name, shim)
                    changed.append((module, name))
        yield
    finally:
        for module, name in changed:
            delattr(module, name)


def _modules_of(model: nn.Module) -> list[ModuleType]:
    classes = {cls.__module__ for part in model.modules() for cls in type(part).__mro__}
    own = {n for n in classes if n.split(".")[0] not in ("torch", "builtins", "graphshard")}
    found = (sys.modules.get(name) for name in sorted(own | loaded_modules().keys()))
    return [module for module in found if isinstance(module, ModuleType)]
