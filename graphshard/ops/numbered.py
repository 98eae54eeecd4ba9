"""Rows that are spread over the ranks, by numbers that every rank holds whole.

::

    where = rows_of_ids(numbers, ids, total)      this rank's row of each number; as many as it has rows: none
    rows_or_zeros(x, dim, where)                  the rows that this rank has, and zeros: a term of a sum over ranks
    write_entries(base, dim, where, source, ...)  writes what leads to rows of this rank, leaves out the rest

Exact, and everything numbered is there on every rank: for a few nodes, or for values between edges (triplets) of a
graph that is not large. No data is sent to write; to read, each rank sends all that is read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphshard.ops.registration import composite, fake, operator


@operator("rows_of_ids(Tensor numbers, Tensor ids, SymInt total) -> Tensor")
def rows_of_ids(numbers: Tensor, ids: Tensor, total: int) -> Tensor:
    """This rank's row of each number.

    Args:
        numbers: integers of any shape, from ``-total`` to ``total - 1``; negative ones count from the end.
        ids: int64 ``[n]``, the numbers of this rank's rows, in any order, each once.
        total: how many rows all ranks have.

    Returns:
        int64 like ``numbers``: the row ``i`` with ``ids[i] == number``, or ``n`` where another rank has it.

    Raises:
        IndexError: a number is that of no row.
    """
    numbers = numbers.long()
    outside = (numbers < -total) | (numbers >= total)
    if bool(outside.any()):
        raise IndexError(f"index {int(numbers[outside][0])} is out of bounds for {total} rows")
    numbers = torch.where(numbers < 0, numbers + total, numbers)
    order = ids.argsort()
    ordered = torch.cat([ids[order], ids.new_tensor([-1])])
    at = torch.searchsorted(ordered[:-1], numbers)
    here = ordered[at] == numbers
    return torch.where(here, torch.cat([order, order.new_tensor([0])])[at], ids.numel())


@fake(rows_of_ids)
def _rows_of_ids_fake(numbers: Tensor, _ids: Tensor, _total: int) -> Tensor:
    return numbers.new_empty(numbers.shape, dtype=torch.int64)


@composite("rows_or_zeros(Tensor x, int dim, Tensor where) -> Tensor")
def rows_or_zeros(x: Tensor, dim: int, where: Tensor) -> Tensor:
    """``x.index_select(dim, where)``, zeros where ``where`` is no row of x.

    Args:
        x: ``[..., n, ...]``, rows along ``dim``. where: int64 of any shape, ``n`` where there is no row.

    Returns:
        ``[..., *where.shape, ...]``.
    """
    flat = where.reshape(-1)
    found = _zero_missing(_some_row(x, dim).index_select(dim, _inside(x, dim, flat)), dim, flat < x.size(dim))
    return found.reshape(*x.shape[:dim], *where.shape, *x.shape[dim + 1 :])


@composite("entries_or_zeros(Tensor x, int dim, Tensor where) -> Tensor")
def entries_or_zeros(x: Tensor, dim: int, where: Tensor) -> Tensor:
    """``x.gather(dim, where)``, 0 where ``where`` is no row of x; arguments as of :func:`rows_or_zeros`."""
    found = _some_row(x, dim).gather(dim, _inside(x, dim, where))
    return torch.where(where < x.size(dim), found, torch.zeros((), dtype=x.dtype, device=x.device))


def _inside(x: Tensor, dim: int, where: Tensor) -> Tensor:
    """Rows that are there: the last for those that are not, which a mask takes out again."""
    return where.clamp(max=max(x.size(dim) - 1, 0))


def _some_row(x: Tensor, dim: int) -> Tensor:
    """x, with a row where it has none; the row still hangs on x, so that gradients are none or zeros as elsewhere."""
    return x if x.size(dim) else _with_row(x, dim)


def _with_row(x: Tensor, dim: int) -> Tensor:
    shape = [*x.shape[:dim], 1, *x.shape[dim + 1 :]]
    return torch.cat([x, x.new_zeros(shape)], dim)


def _zero_missing(found: Tensor, dim: int, here: Tensor) -> Tensor:
    """Not by a product: what is taken out may be infinite."""
    mask = here.view(-1, *[1] * (found.dim() - dim - 1))
    return torch.where(mask, found, torch.zeros((), dtype=found.dtype, device=found.device))


@composite(
    "write_entries(Tensor base, int dim, Tensor where, Tensor source, str reduce, bool include_self) -> Tensor"
)
def write_entries(
    base: Tensor, dim: int, where: Tensor, source: Tensor, reduce: str, include_self: bool
) -> Tensor:
    """``base.scatter_reduce(dim, where, source, reduce)`` that leaves out what leads to no row of base.

    Args:
        base: ``[..., n, ...]``, rows along ``dim``.
        where: int64 like ``source``, ``n`` where there is no row.
        source: of base's dtype.
        reduce: "sum", "mean", "amax", "amin", as for ``torch.scatter_reduce``; "replace" writes over.
        include_self: as for ``torch.scatter_reduce``.

    Returns:
        Like base. One more row takes what is left out, so that sources keep their places.
    """
    padded = _with_row(base, dim)
    if reduce == "replace":
        written = padded.scatter(dim, where, source)
    elif reduce == "sum" and include_self:
        written = padded.scatter_add(dim, where, source)
    else:
        written = padded.scatter_reduce(dim, where, source, reduce, include_self=include_self)
    return written.narrow(dim, 0, base.size(dim))
