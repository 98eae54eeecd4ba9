"""The same op on owned rows and on owned and halo rows: how a sync moves past it, in either direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from graphshard.infer.constants import constant_size
from graphshard.infer.emitter import Emitter
from graphshard.infer.halo import with_rows_of_its_own
from graphshard.infer.row_by_row import renamed
from graphshard.ir.placement import Halo, Owned, Placed, Rows, Size
from graphshard.ops import local as local_ops
from graphshard.private.fake_tensors import fake_mode_of

aten = torch.ops.aten
SYNC = torch.ops.graphshard.halo_sync.default


def is_over(node: Any, rows: Rows) -> bool:
    """Whether a value has these rows in dim 0 and nothing else to be said of it."""
    placed = node.meta.get("placement") if isinstance(node, fx.Node) else None
    if not isinstance(placed, Placed) or placed.partial or placed.mirror:
        return False
    return placed.sharded == (0,) and placed.dims[0] == rows


def twin(emit: Emitter, node: fx.Node, values: Mapping[fx.Node, fx.Node], old: Rows, new: Rows) -> fx.Node:
    """The same call over ``new`` rows instead of ``old`` ones.

    Args:
        emit: inserts where the inputs are known. node: a call that works row by row.
        values: what takes the place of each input over ``old`` rows. old, new: ``Owned`` and ``Halo``, or back.
    """
    names = {old: new}

    def swap(value: fx.Node) -> fx.Node:
        if value in values:
            return values[value]
        placement = value.meta["placement"]
        if isinstance(placement, Size) and old in placement.rows:
            return _size(emit, value, new)
        return value

    args, kwargs = fx.map_arg(node.args, swap), fx.map_arg(node.kwargs, swap)
    made = emit.graph.create_node(
        "call_function", node.target, args, kwargs, name=f"{node.name}_{_word(new)}"
    )
    made.meta = {key: value for key, value in node.meta.items() if key != "unbacked_bindings"}
    made.meta["placement"] = renamed(node.meta["placement"], names)
    rows = next((v.meta["val"].size(0) for v in values.values() if is_over(v, new)), None)
    made.meta["val"] = _resized(node.meta["val"], rows)
    return made


def _size(emit: Emitter, value: fx.Node, new: Rows) -> fx.Node:
    """A count of the new rows for one of the old; sums of counts are refused by ``may_move``."""
    found = constant_size(emit, new, value.meta["val"])
    assert found is not None
    return found


def may_move(node: fx.Node, rows: Rows) -> bool:
    """Whether ``twin`` can be made: every count among the arguments counts these rows alone, or none of them."""
    sizes = [n.meta["placement"] for n in node.all_input_nodes if isinstance(n.meta["placement"], Size)]
    return all(rows not in s.rows or s.rows == (rows,) for s in sizes)


def _word(rows: Rows) -> str:
    return "halo" if isinstance(rows, Halo) else "own"


def _resized(example: Any, rows: Any) -> Any:
    if not isinstance(example, torch.Tensor) or not example.dim():
        return example
    if rows is None:
        return with_rows_of_its_own(example)
    with fake_mode_of(example):
        return example.new_empty((rows, *example.shape[1:]))


def own_rows(emit: Emitter, value: fx.Node, owned: Owned, example: Any) -> fx.Node:
    """The owned rows of a value over owned and halo rows."""
    count = constant_size(emit, owned, example.size(0))
    return emit.call(local_ops.own_rows, value, count, name=f"{value.name}_own", example=example)
