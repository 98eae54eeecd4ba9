"""The global ids of a row set, as nodes of a program: the same number for the same row on any rank."""

from __future__ import annotations

import torch
from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Edges, Given, Halo, Joined, Kept, Owned, Rows, Sorted
from graphshard.ops import aggregation
from graphshard.ops import local as local_ops

aten = torch.ops.aten


def row_ids(emit: Emitter, rows: Rows) -> fx.Node:
    """An int64 ``[rows]`` node: node ids, edge positions, those that a mask keeps, or segments of them."""
    if (part := _part(rows)) is not None:
        return emit.program.placeholder(*part)
    if isinstance(rows, Kept):
        mask = next(n for n in emit.graph.nodes if n.name == rows.mask)
        ids = row_ids(emit, rows.rows)
        return emit.call(aten.index.Tensor, ids, [mask], example=emit.program.fake_rows())
    if isinstance(rows, Sorted):
        order = next(n for n in emit.graph.nodes if n.name == rows.by)
        ids = row_ids(emit, rows.rows)
        return emit.call(aggregation.sort_edges, ids, order, example=emit.program.fake_rows())
    assert isinstance(rows, Joined)
    parts = [row_ids(emit, part) for part in rows.parts]
    return emit.call(local_ops.join_ids, parts, example=emit.program.fake_rows())


def _part(rows: Rows) -> tuple[str, ...] | None:
    """The part of the shard that holds the ids, and of what; None of rows that a program made."""
    match rows:
        case Owned(nodes):
            return "owned_ids", nodes
        case Halo(nodes, plan):
            return "node_ids", nodes, plan
        case Edges(name):
            return "edge_ids", name
        case Given(name):
            return "given_ids", name
    return None
