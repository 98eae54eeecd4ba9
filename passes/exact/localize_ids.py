"""localize_ids: rows that are spread over the ranks, read or written by numbers that every rank holds whole.

Before::  picked = index(m, [numbers])
After::   where = rows_of_ids(numbers, edge_ids, count)    # this rank's row of each number, once for each graph
          picked = rows_or_zeros(m, 0, where)              # a term: every number is a row of one rank

Before::  y = index_add(base, 0, numbers, values)
After::   y = write_entries(base, 0, where, values, "sum")

A number is that of a node or edge in the whole graph, for what every rank holds whole is what one machine has. What is
read is then summed over the ranks, as any partial sum is; what is written is there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import NumberedRows
from graphshard.catalogue.scatter import reduce_of
from graphshard.infer.emitter import Emitter
from graphshard.infer.rewrite import rewrite_each
from graphshard.infer.row_ids import row_ids
from graphshard.ir.calls import calls
from graphshard.ir.program import Program
from graphshard.ops import numbered

aten = torch.ops.aten


@dataclass(frozen=True)
class LocalizeIds:
    """Rewrite each read and write of rows by numbers that every rank holds whole; counts them."""

    name: ClassVar[str] = "localize_ids"

    def run(self, program: Program) -> int:
        return rewrite_each(program, NumberedRows, _rewrite)


def _rewrite(emit: Emitter, call: Call) -> fx.Node:
    if calls(call.node, aten.index, aten.index_select, aten.embedding, aten.gather):
        return _read(emit, call)
    return _write(emit, call)


def _read(emit: Emitter, call: Call) -> fx.Node:
    table: fx.Node = call.get("self") or call["weight"]
    dim, numbers = _dim_and_numbers(call, table)
    where = _where(emit, table, dim, numbers)
    read = numbered.entries_or_zeros if calls(call.node, aten.gather) else numbered.rows_or_zeros
    dtype = table.meta["val"].dtype
    if dtype is not torch.bool:
        return emit.call(read, table, dim, where)
    as_numbers = emit.call(aten._to_copy.default, table, dtype=torch.int32)  # truths are not summed
    return emit.call(aten._to_copy.default, emit.call(read, as_numbers, dim, where), dtype=dtype)


def _write(emit: Emitter, call: Call) -> fx.Node:
    base: fx.Node = call["self"]
    dim, numbers = _dim_and_numbers(call, base)
    source = _source(emit, call, base, numbers)
    reduce = reduce_of(call)
    if calls(call.node, aten.index_put):
        reduce = "sum" if call["accumulate"] else "replace"
    if not calls(call.node, aten.scatter, aten.scatter_add, aten.scatter_reduce):
        shape = list(shape_of(base))
        shape[dim] = shape_of(numbers)[0]
        numbers = emit.call(aten.view.default, numbers, [-1 if d == dim else 1 for d in range(len(shape))])
        # As wide as what is written, whose other dims are the base's.
        numbers = emit.call(aten.expand.default, numbers, shape)
        source = emit.call(aten.expand.default, source, shape)
    where = _where(emit, base, dim, numbers)
    return emit.call(
        numbered.write_entries, base, dim, where, source, reduce, call.get("include_self") is not False
    )


def _dim_and_numbers(call: Call, table: fx.Node) -> tuple[int, fx.Node]:
    """The dim of the rows, and what numbers them."""
    if "indices" in call.args and not calls(call.node, aten.embedding):
        ((dim, numbers),) = [(d, i) for d, i in enumerate(call["indices"]) if i is not None]
        return dim, numbers
    if calls(call.node, aten.embedding):
        return 0, call["indices"]
    return call.dim("dim", len(shape_of(table))), call["index"]


def _source(emit: Emitter, call: Call, base: fx.Node, numbers: fx.Node) -> Any:
    """What is written: a number as a tensor, ``alpha`` times what is added."""
    source = call.get("src", call.get("source", call.get("values", call.get("value"))))
    if not isinstance(source, fx.Node):
        return emit.call(aten.full_like.default, numbers, source, dtype=base.meta["val"].dtype)
    alpha = call.get("alpha", 1)
    return source if alpha == 1 else emit.call(aten.mul.Tensor, source, alpha)


def _where(emit: Emitter, table: fx.Node, dim: int, numbers: fx.Node) -> fx.Node:
    rows = table.meta["placement"].dims[dim]
    ids = row_ids(emit, rows)
    total = emit.call(aten.sym_size.int, table, dim)
    return emit.call(numbered.rows_of_ids, numbers, ids, total)
