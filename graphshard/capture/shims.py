"""What is replaced while a model is exported, by something that computes the same and can be captured.

``int(tensor)`` and ``float(tensor)`` become ``tensor.item()``:
Python's ``int()`` must return a number at once, which an export has not got; ``item()`` gives a symbol that
the program computes. PyG writes ``int(index.max()) + 1`` and ``int(batch.max()) + 1`` in many places.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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


@contextlib.contextmanager
def symbolic_numbers(model: nn.Module) -> Iterator[None]:
    """Let ``int()`` and ``float()`` of PyG and of the files that define the model's modules keep symbols."""
    changed: list[tuple[ModuleType, str]] = []
    try:
        for module in _modules_of(model):
            for name, shim in (("int", _Int), ("float", _Float)):
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
    pyg = {n for n in list(sys.modules) if n.split(".")[0] == "torch_geometric"}
    found = (sys.modules.get(name) for name in sorted(own | pyg))
    return [module for module in found if isinstance(module, ModuleType)]


@contextlib.contextmanager
def capturable_forms() -> Iterator[None]:
    """While a model is exported: layers that sort rows, or read buffers as Python numbers, without doing so."""
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(_BatchNorm, "forward", _batch_norm))
        dense = sys.modules.get("torch_geometric.nn.dense.linear")
        if dense is not None:
            patches.enter_context(mock.patch.object(dense.HeteroLinear, "forward", _hetero_linear))
        yield


def _hetero_linear(self: Any, x: Tensor, type_vec: Tensor) -> Tensor:
    """``torch_geometric.nn.HeteroLinear``: ``x[i] @ weight[type_vec[i]] + bias[type_vec[i]]``, unsorted."""
    out = x.new_zeros(x.size(0), self.out_channels)
    for number in range(self.num_types):
        here = (type_vec == number).unsqueeze(-1)
        out = torch.where(here, x @ self.weight[number], out)
    return out if self.bias is None else out + self.bias[type_vec]


_FORWARD = _BatchNorm.forward


def _batch_norm(self: Any, x: Tensor) -> Tensor:
    """``torch.nn.BatchNorm1d`` with ``momentum=None``: the mean over all batches so far, kept in tensors."""
    if self.momentum is not None or not self.training or not self.track_running_stats:
        return _FORWARD(self, x)
    self._check_input_dim(x)
    self.num_batches_tracked.add_(1)
    dims = [d for d in range(x.dim()) if d != 1]
    share = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
    for running, new in (
        (self.running_mean, x.detach().mean(dims)),
        (self.running_var, x.detach().var(dims)),
    ):
        running.add_((new - running) * share)
    return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
