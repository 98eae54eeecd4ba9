"""The global ids of a row set, as nodes of a program: the same number for the same row on any rank."""

from __future__ import annotations

import torch
from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Edges, Given, Halo, Kept, Owned, Rows, Sorted
from graphshard.ops import aggregation
from graphshard.ops import local as local_ops

aten = torch.ops.aten


def row_ids(emit: Emitter, rows: Rows) -> fx.Node:
    """An int64 ``[rows]`` node: node ids, edge positions, those that a mask keeps, or segments of them."""
    if isinstance(rows, Owned):
        return emit.program.placeholder("owned_ids", rows.nodes)
    if isinstance(rows, Halo):
        return emit.program.placeholder("node_ids", rows.nodes, rows.plan)
    if isinstance(rows, Edges):
        return emit.program.placeholder("edge_ids", rows.name)
    if isinstance(rows, Given):
        return emit.program.placeholder("given_ids", rows.name)
    if isinstance(rows, Kept):
        mask = next(n for n in emit.graph.nodes if n.name == rows.mask)
        ids = row_ids(emit, rows.rows)
        return emit.call(aten.index.Tensor, ids, [mask], example=emit.program.fake_rows())
    if isinstance(rows, Sorted):
        order = next(n for n in emit.graph.nodes if n.name == rows.by)
        ids = row_ids(emit, rows.rows)
        return emit.call(aggregation.sort_edges, ids, order, example=emit.program.fake_rows())
    parts = [row_ids(emit, part) for part in rows.parts]
    return emit.call(local_ops.join_ids, parts, example=emit.program.fake_rows())
