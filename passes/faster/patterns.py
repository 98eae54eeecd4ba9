"""Gathers and scatters of a program, in whatever way they are written: what ``lower_aggregations`` looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.create import is_filled
from graphshard.catalogue.pointwise import is_one
from graphshard.catalogue.scatter import reduce_of
from graphshard.ir.calls import calls
from graphshard.ir.placement import Halo, Owned, Placed, Rows
from graphshard.ops import local as local_ops

aten = torch.ops.aten


@dataclass(frozen=True)
class Gathered:
    """``table[index]`` along dim 0, by numbers of nodes."""

    table: fx.Node
    index: fx.Node


@dataclass(frozen=True)
class Scattered:
    """``values`` reduced into the rows of ``base`` by a 1-D ``index``; ``empty``: base holds zeros only."""

    base: fx.Node
    index: fx.Node
    values: fx.Node
    reduce: str
    empty: bool
    include_self: bool


def rows_of(node: Any) -> Rows | None:
    """The rows of dim 0, if they are all that is spread over the ranks."""
    placed = node.meta.get("placement") if isinstance(node, fx.Node) else None
    if not isinstance(placed, Placed) or placed.sharded != (0,) or placed.partial:
        return None
    return placed.dims[0]


def gathered(node: Any) -> Gathered | None:
    """A gather of node rows along dim 0."""
    table: Any = None
    if calls(node, aten.index_select):
        table, dim, index = node.args
        if dim % len(shape_of(table)):
            return None
    elif calls(node, aten.index) and len(node.args[1]) == 1:
        table, (index,) = node.args[0], node.args[1]
    elif calls(node, aten.embedding):
        table, index = node.args[:2]
    elif calls(node, aten.gather) and node.args[1] % len(shape_of(node.args[0])) == 0:
        table, index = node.args[0], spread(node.args[2], like=node)
    if table is None or not isinstance(rows_of(table), (Owned, Halo)) or not is_index(index):
        return None
    return Gathered(table, index)


def is_index(node: Any) -> bool:
    """Whether a value is 1-D and holds integers for rows."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return (
        isinstance(value, torch.Tensor)
        and value.dim() == 1
        and value.dtype in (torch.int64, torch.int32)
        and rows_of(node) is not None
    )


def spread(node: Any, like: fx.Node | None = None) -> fx.Node | None:
    """The 1-D value whose entries a wider one repeats along every further dim; itself if it is 1-D."""
    if not isinstance(node, fx.Node) or (like is not None and len(shape_of(node)) != len(shape_of(like))):
        return None
    while len(shape_of(node)) > 1 or calls(node, aten.expand, aten.view, aten.unsqueeze):
        inner = node.args[0] if node.args else None
        if (
            not (calls(node, *_REPEATS, *_RESHAPES) and isinstance(inner, fx.Node))
            or rows_of(inner) != rows_of(node)
            or rows_of(inner) is None
        ):
            return None
        if calls(node, *_RESHAPES):
            wider = shape_of(node) if len(shape_of(node)) > len(shape_of(inner)) else shape_of(inner)
            if not all(map(is_one, wider[1:])):
                return None
        node = inner
    return node  # type: ignore[no-any-return]


_REPEATS = (aten.expand, aten.expand_as)
_RESHAPES = (aten.view, aten.reshape, aten.unsqueeze)


def scattered(node: Any) -> Scattered | None:
    """A reduction of rows into the rows of nodes, along dim 0."""
    if not calls(node, aten.scatter_add, aten.scatter_reduce, aten.index_add, aten.index_put):
        return None
    puts = calls(node, aten.index_put)
    call = Call(node, {}, [])
    base, values = call["self"], call.get("src", call.get("source", call.get("values")))
    if puts:
        used = [i for i in call["indices"] if i is not None]
        if not call["accumulate"] or len(used) != 1 or call["indices"][0] is None:
            return None
        index = used[0]
    elif call.dim("dim", len(shape_of(base))) != 0:
        return None
    else:
        index = call["index"] if calls(node, aten.index_add) else spread(call["index"])
    if call.get("alpha", 1) != 1 or not is_index(index) or rows_of(values) != rows_of(index):
        return None
    if not isinstance(rows_of(base), (Owned, Halo)) or not values.meta["val"].is_floating_point():
        return None
    reduce = "sum" if puts else reduce_of(call)
    return Scattered(base, index, values, reduce, _is_empty(base), call.get("include_self") is not False)


def _is_empty(base: fx.Node) -> bool:
    if base.target is local_ops.pad_halo and base.args[2] == 0 and isinstance(base.args[0], fx.Node):
        base = base.args[0]
    return is_filled(base, 0)


def same(node: Any) -> Any:
    """The value that a copy was made of: in a program without in-place ops it is as good."""
    while calls(node, aten.clone, aten.contiguous, aten.lift_fresh_copy):
        node = node.args[0]
    return node
