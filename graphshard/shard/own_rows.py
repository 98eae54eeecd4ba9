"""The rows that a rank holds of a node parameter, outside of forward: read as the whole table, as outputs are.

::

    model.embedding.weight.norm()       over all ranks' rows, with its gradient
    optimizer.step()                    row by row on this rank's; a norm that it takes is that of all rows

Inside of an optimiser's step functions run on the plain rows. What they give is rows again, or made of all ranks'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.private import pytree
from graphshard.private.torch_functions import WithoutTorchFunction
from graphshard.private.torch_modules import state_of
from graphshard.shard.placed import Origin, Stored, as_placed, call, new_name, plain

__all__ = ["OwnRows", "RowsParameter", "in_step", "own_rows", "with_plain_rows"]


_GRADIENT = Tensor.grad.__get__  # type: ignore[union-attr]


class OwnRows(Stored):
    """``[n, ...]`` rows on this rank of a node buffer ``[N, ...]``, or what an optimiser makes of a node parameter.

    Attributes:
        origin: what the rows are of the whole.
        in_step: an optimiser makes a step with them.
    """

    origin: Origin
    in_step: bool = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = pytree.tree_leaves((args, kwargs))
        if torch.is_grad_enabled() or not any(isinstance(v, OwnRows) and v.in_step for v in given):
            return call(func, types, args, kwargs)
        with WithoutTorchFunction():
            if func == _GRADIENT:
                return _marked(func(*args), args)
            found = func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs))
            if _row_by_row(found, args):
                return _marked(found, args)
        return call(func, types, args, kwargs)

    def local(self) -> Tensor:
        """The plain tensor of this rank's rows; the same memory, and its gradient goes to the parameter."""
        with WithoutTorchFunction():
            return self.as_subclass(Tensor)

    def placed(self) -> Tensor:
        """These rows as a tensor of the whole graph."""
        return as_placed(self.local(), self.origin)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.placed())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            rows, origin = self.local().detach().clone(), replace(self.origin, name=new_name())
            memo[id(self)] = own_rows(rows, origin, type(self), self.requires_grad)
        twin: Tensor = memo[id(self)]
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The process group is that of the job in which it is loaded.
        origin = replace(self.origin, group=None, name=new_name())
        return own_rows, (self.local().detach(), origin, type(self), self.requires_grad)


class RowsParameter(OwnRows, nn.Parameter):
    """``[n, ...]`` rows on this rank of a node parameter ``[N, ...]``."""


def own_rows(rows: Tensor, origin: Origin, kind: type[OwnRows], requires_grad: bool) -> Tensor:
    """This rank's rows of a table, as what they are of the whole; the same memory.

    Args:
        rows: ``[n, ...]``, without a gradient. origin: says what rows.
        kind: :class:`RowsParameter`, or :class:`OwnRows` for a buffer.
        requires_grad: whether it takes part in derivatives.
    """
    found = rows.as_subclass(kind)
    found.origin = origin
    with WithoutTorchFunction():
        return found.requires_grad_(requires_grad)


def in_step(rows: Tensor, like: OwnRows) -> OwnRows:
    """Plain rows of an optimiser (a moment) as rows like those of a parameter; the same memory."""
    found = rows.as_subclass(OwnRows)
    found.origin, found.in_step = like.origin, True
    return found


@contextmanager
def with_plain_rows(model: nn.Module) -> Iterator[None]:
    """Inside the block a module holds plain Parameters and buffers in the place of rows: it is captured with them."""
    kept = [
        (tensors, name, tensor)
        for module in model.modules()
        for tensors in state_of(module)
        for name, tensor in tensors.items()
        if isinstance(tensor, OwnRows)
    ]
    parts: dict[int, Tensor] = {}
    for tensors, name, rows in kept:
        if id(rows) not in parts:
            part = rows.local().detach()
            parameter = isinstance(rows, nn.Parameter)
            parts[id(rows)] = nn.Parameter(part, rows.requires_grad) if parameter else part
        tensors[name] = parts[id(rows)]
    try:
        yield
    finally:
        for tensors, name, rows in kept:
            tensors[name] = rows


def _own(args: Sequence[Any]) -> OwnRows | None:
    return next((value for value in args if isinstance(value, OwnRows)), None)


def _row_by_row(found: Any, args: Sequence[Any]) -> bool:
    """Whether a function of the plain rows gave one for each row, or nothing; of lists, for each by itself."""
    if isinstance(found, list):
        return all(_row_by_row(*pair) for pair in _pairs(found, args))
    if isinstance(found, Tensor):
        own = _own(args)
        return own is None or (found.dim() > 0 and found.shape[0] == plain(own).shape[0])
    return found is None or isinstance(found, (bool, torch.dtype, torch.device, torch.layout))


def _marked(found: Any, args: Sequence[Any]) -> Any:
    if isinstance(found, list):
        return [_marked(*pair) for pair in _pairs(found, args)]
    own = _own(args)
    return in_step(found, own) if isinstance(found, Tensor) and own is not None else found


def _pairs(found: list[Any], args: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
    """Each of several results, with what it was made of: the entries of lists that stand in its place."""
    lists = [value for value in args if isinstance(value, (list, tuple))]
    return [(one, [value[i] for value in lists if i < len(value)]) for i, one in enumerate(found)]
