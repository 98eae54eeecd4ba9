"""The gradient of a node parameter on one of several ranks: rows of a whole, whose norm is that of all rows.

::

    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)     calls vector_norm(p.grad) of each parameter
    rank 0   rows 0..4 --+
                         +--> all-reduce of sum |g| ** p --> the norm of all rows, on every rank
    rank 1   rows 5..9 --+

What works row by row, as an optimiser does, gives plain rows. What would be a number of this rank's rows is refused.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.errors import UnsupportedOperation
from graphshard.ops.exchange import all_reduce
from graphshard.private import pytree
from graphshard.private.torch_functions import WithoutTorchFunction, foreach_norm

_KEEP = frozenset(
    {
        Tensor.abs,
        Tensor.detach,
        *(Tensor.isfinite, Tensor.isinf, Tensor.isnan, torch.isfinite, torch.isinf, torch.isnan, Tensor.sign),
        *(Tensor.gt, Tensor.ge, Tensor.lt, Tensor.le, Tensor.eq, Tensor.ne, Tensor.__eq__, Tensor.__ne__),
        Tensor.double,
        Tensor.float,
        Tensor.pow,
        Tensor.square,
        Tensor.to,
        Tensor.__pow__,
        Tensor.data.__get__,  # type: ignore[attr-defined]
        torch.abs,
        torch.pow,
        torch.square,
    }
)
"""What is taken before a norm or a truth, and no optimiser keeps: rows of a gradient still."""

_NORMS = (torch.linalg.vector_norm, torch.linalg.norm, torch.norm, Tensor.norm)


class RowsGradient(Tensor):
    """A rank's rows of a gradient ``[N, ...]``, on several ranks; shares their memory."""

    group: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        gradients = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, RowsGradient)]
        with WithoutTorchFunction():
            if func in _NORMS and args and isinstance(args[0], RowsGradient):
                return _norm(func, *args, **kwargs)
            if func is foreach_norm:
                return _norms(*args, **kwargs)
            found = func(*pytree.tree_map(_plain, args), **pytree.tree_map(_plain, kwargs))
            return pytree.tree_map(lambda value: _result(value, func, gradients), found)


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, RowsGradient) else value


def _result(value: Any, func: Callable[..., Any], gradients: Sequence[RowsGradient]) -> Any:
    """A result with as many rows is one for each row; any other is of this rank's rows alone."""
    if not isinstance(value, Tensor) or not gradients:
        return value
    first = gradients[0]
    if value.dim() == 0 or value.size(0) != first.size(0):
        name = getattr(func, "__name__", str(func))
        raise UnsupportedOperation(
            f"{name} of the gradient of a node parameter would be that of this rank's rows alone: its norm is that "
            "of all rows, and what works row by row is plain; for anything else gather the rows first (shard.gather)"
        )
    same = next((g for g in gradients if g.data_ptr() == value.data_ptr() and g.shape == value.shape), None)
    return as_rows(value, first.group) if func in _KEEP or same is not None else value


def as_rows(gradient: Tensor, group: str) -> RowsGradient:
    """A gradient of rows, marked as one rank's; the same memory."""
    marked: RowsGradient = gradient.as_subclass(RowsGradient)
    marked.group = group
    return marked


def _norm(func: Any, gradient: RowsGradient, order: Any = None, *rest: Any, **kwargs: Any) -> Tensor:
    """The norm of all ranks' rows, as of one long vector."""
    order = kwargs.pop("ord", kwargs.pop("p", order))
    of_a_part = any(value is not None and value is not False for value in (*rest, *kwargs.values()))
    of_a_matrix = isinstance(order, str) and order != "fro"
    if of_a_part or of_a_matrix or (func is torch.linalg.norm and order is not None):
        raise UnsupportedOperation(
            "of the gradient of a node parameter, whose rows are on several ranks, only the norm of all numbers is "
            "known, as clip_grad_norm_ takes it: torch.linalg.vector_norm(gradient, order)"
        )
    return _of_all(gradient, 2.0 if order in (None, "fro") else float(order))


def _norms(values: Sequence[Tensor], p: float = 2, **_: Any) -> list[Tensor]:
    return [
        _of_all(v, float(p)) if isinstance(v, RowsGradient) else torch.linalg.vector_norm(v, p)
        for v in values
    ]


def _of_all(gradient: RowsGradient, order: float) -> Tensor:
    rows, group = gradient.as_subclass(Tensor).detach(), gradient.group
    if math.isinf(order):
        extreme = "max" if order > 0 else "min"
        empty = rows.new_tensor(0.0 if order > 0 else math.inf)
        own = torch.linalg.vector_norm(rows, order) if rows.numel() else empty
        return all_reduce(own, extreme, group)  # type: ignore[no-any-return]
    powers = rows.count_nonzero().to(rows.dtype) if order == 0 else rows.abs().pow(order).sum()
    total: Tensor = all_reduce(powers, "sum", group)
    return total if order == 0 else total.pow(1 / order)


class Marking:
    """Lets every gradient that a backward gives to the node parameters of a module be one rank's rows.

    Args:
        group: the process group's name.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self._known: list[weakref.ref[nn.Parameter]] = []

    def watch(self, parameter: nn.Parameter) -> None:
        """From now on; once for a parameter, however often it is called."""
        if not any(known() is parameter for known in self._known):
            self._known.append(weakref.ref(parameter))
            parameter.register_post_accumulate_grad_hook(self._mark)  # type: ignore[no-untyped-call]

    def _mark(self, parameter: Tensor) -> None:
        if parameter.grad is not None and not isinstance(parameter.grad, RowsGradient):
            parameter.grad = as_rows(parameter.grad, self.group)
