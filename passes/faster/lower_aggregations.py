"""lower_aggregations: gathers, messages and scatters along constant edges become sparse matrix products.

Before::  out = scatter_add(zeros, 0, dst, index_select(x, 0, src) * w)          # E x F twice, and in backward
After::   A = edge_structure(dst, src, n, n + h)                                 # once for each graph
          out = weighted_sum(x, w, A)

and the same for

    sum(index_select(q, 0, dst) * index_select(k, 0, src), -1)     dots(q, k, A)
    exp(s - max of s by dst) / sum by dst                          edge_softmax(s, A)
    scatter_reduce(zeros, 0, dst, index_select(x, 0, src), amax)   extreme(x, A)
    any other sum of edge rows, gather with a gradient             segment_sum(m, A), gather(x, A)

The order of the terms of every sum stays that of the edges. Numbers of edges that change from step to step are
left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import shape_of
from graphshard.catalogue.pointwise import is_one
from graphshard.catalogue.scatter import is_by_source
from graphshard.infer.constants import constant_size, constant_values, constants_first, last_of
from graphshard.infer.emitter import Emitter
from graphshard.infer.gradient_flow import gradient_flow
from graphshard.infer.match import call, match, matches
from graphshard.ir.calls import calls
from graphshard.ir.placement import Owned, Rows
from graphshard.ir.program import Program
from graphshard.ir.value_numbers import restore_order
from graphshard.ops import aggregation
from graphshard.passes.faster.patterns import (
    Gathered,
    Scattered,
    gathered,
    rows_of,
    same,
    scattered,
    spread,
)

aten = torch.ops.aten


_SOFTMAX = call(aten.div, call(aten.exp, call(aten.sub, "scores", "top"), name="power"), "total")
_PLUS = call(aten.add, "table", "small")
_DOT = call(aten.sum, call(aten.mul, "q", "k", name="product"), "dims", optional=("keepdim",))
_MESSAGE = call(aten.mul, "weight", "message", commutes=True)


@dataclass(frozen=True)
class LowerAggregations:
    """Rewrite each aggregation, and each gather that has a gradient; counts them."""

    name: ClassVar[str] = "lower_aggregations"

    def run(self, program: Program) -> int:
        constants_first(program)
        lowering = _Lowering(program, constant_values(program))
        edits = 0
        for lower in (lowering.softmax, lowering.dots, lowering.scatter, lowering.gather):
            for node in list(program.graph.nodes):
                emit = Emitter(program, node)
                with emit.before(node):
                    made = lower(emit, node) if node.op == "call_function" else None
                if made is not None:
                    node.replace_all_uses_with(made)
                    edits += 1
            lowering.drop_dead_code()
        return edits


class _Lowering:
    """The rewrites of one run, and what they share: the structures that were made, by their ends."""

    def __init__(self, program: Program, constants: frozenset[fx.Node]) -> None:
        self.program, self.constants = program, constants
        self.structures: dict[tuple[fx.Node, fx.Node, Rows, Rows], fx.Node] = {}
        self._flowing: frozenset[fx.Node] | None = None
        self.gathers = [g for node in program.graph.nodes if (g := self._gathered(node)) is not None]

    def softmax(self, emit: Emitter, node: fx.Node) -> fx.Node | None:
        """``exp(s - max) / (sum + small)``, as PyG's ``softmax`` and most people write it."""
        found = match(_SOFTMAX, node)
        if found is None:
            return None
        power, scores = found["power"], found["scores"]
        total, top = self._gathered(found["total"]), self._gathered(found["top"])
        if total is None or top is None or total.index is not top.index:
            return None
        table, small = total.table, 0.0
        added = match(_PLUS, table)
        if added is not None and isinstance(added["small"], (int, float)):
            table, small = added["table"], float(added["small"])
        sums, maxima = scattered(table), scattered(top.table)
        if sums is None or maxima is None or not isinstance(rows_of(table), Owned):
            return None
        kinds = (sums.reduce, sums.empty, maxima.reduce, maxima.empty, maxima.include_self)
        known = (scores, power) == (_attached(maxima.values), sums.values)
        if kinds != ("sum", True, "amax", True, False) or not known:
            return None
        if {sums.index, maxima.index} != {total.index}:
            return None
        structure = self._with_end(total.index, table)[0]
        return emit.call(aggregation.edge_softmax, scores, structure, small, example=node.meta["val"])

    def dots(self, emit: Emitter, node: fx.Node) -> fx.Node | None:
        """``(q[dst] * k[src]).sum(-1)``."""
        found = match(_DOT, node)
        if found is None or found["keepdim"]:
            return None
        ndim = len(shape_of(found["product"]))
        if list(found["dims"]) not in ([-1], [ndim - 1]):
            return None
        q, k = map(self._gathered, (found["q"], found["k"]))
        if q is None or k is None or ndim not in (2, 3):
            return None
        tables = [_cast(emit, end.table, node.meta["val"].dtype) for end in (q, k)]
        if shape_of(q.table)[1:] != shape_of(k.table)[1:]:
            return None
        if _is_foreign(q.index) and not _is_foreign(k.index):
            q, k, tables = k, q, tables[::-1]
        structure = self._structure(q, k)
        if ndim == 2:
            tables = [emit.call(aten.unsqueeze.default, t, 1) for t in tables]
        example = node.meta["val"] if ndim == 3 else node.meta["val"].unsqueeze(-1)
        scores = emit.call(aggregation.dots, *tables, structure, example=example)
        return scores if ndim == 3 else emit.call(aten.squeeze.dim, scores, 1)

    def scatter(self, emit: Emitter, node: fx.Node) -> fx.Node | None:
        """A sum, mean or extreme of edge rows by one end of the edges."""
        found = scattered(node)
        if found is None or found.index not in self.constants:
            return None
        # Copies of a node hold terms: a base may not be added to each of them.
        may_add = found.include_self and isinstance(rows_of(found.base), Owned)
        if found.reduce == "sum" and (found.empty or may_add):
            total = self._sum(emit, found, node)
            return total if found.empty else emit.call(aten.add.Tensor, found.base, total)
        if not found.empty or found.include_self or not isinstance(rows_of(found.base), Owned):
            return None
        if found.reduce == "mean":
            return emit.call(aten.div.Tensor, self._sum(emit, found, node), self._counts(found, node))
        if found.reduce in ("amax", "amin"):
            table, structure = self._table(found)
            return emit.call(
                aggregation.edge_extreme, table, structure, found.reduce, example=node.meta["val"]
            )
        return None

    def gather(self, emit: Emitter, node: fx.Node) -> fx.Node | None:
        """A gather with a gradient: its backward sums by node, without atomics."""
        found = self._gathered(node)
        if self._flowing is None:
            self._flowing = gradient_flow(self.program, inputs_need_grad=True)
        if found is None or node not in self._flowing:
            return None
        structure, end = self._with_end(found.index, found.table)
        return emit.call(aggregation.gather, found.table, structure, end, example=node.meta["val"])

    def drop_dead_code(self) -> None:
        """What nothing reads any more, structures among it.

        A gather may read a structure whose other end is selected behind it, so the order is restored first.
        """
        restore_order(self.program)
        self.program.graph.eliminate_dead_code()
        left = set(self.program.graph.nodes)
        self.structures = {ends: node for ends, node in self.structures.items() if node in left}

    # ---- messages ----

    def _sum(self, emit: Emitter, found: Scattered, node: fx.Node) -> fx.Node:
        example, values = node.meta["val"], same(found.values)
        if (source := self._gathered(values)) is not None:
            structure = self._structure(Gathered(found.base, found.index), source)
            return emit.call(aggregation.weighted_sum, source.table, None, structure, example=example)
        for product in matches(_MESSAGE, values):
            source, weights = self._gathered(product["message"]), self._weight(product["weight"], values)
            if source is not None and weights is not None:
                structure = self._structure(Gathered(found.base, found.index), source)
                # A product of two dtypes is of the wider one.
                table, weights = (_cast(emit, n, example.dtype) for n in (source.table, weights))
                return emit.call(aggregation.weighted_sum, table, weights, structure, example=example)
        structure, end = self._with_end(found.index, found.base)
        if end == "column":
            structure = self._structure(*[Gathered(found.base, found.index)] * 2)
        return emit.call(aggregation.segment_sum, values, structure, example=example)

    def _weight(self, node: Any, product: fx.Node) -> fx.Node | None:
        """A number for each edge, or for each edge and head, that a product spreads over the features."""
        if not isinstance(node, fx.Node) or rows_of(node) != rows_of(product):
            return None
        if len(shape_of(node)) not in (1, len(shape_of(product))):
            return None
        if len(shape_of(node)) == 1 and len(shape_of(product)) > 1:
            return None  # spread over the last dim, which is not the rows
        if (one := spread(node)) is not None:
            return same(one)  # type: ignore[no-any-return]
        inner = same(node.args[0]) if calls(node, aten.unsqueeze, aten.view, aten.reshape) else None
        heads = shape_of(node)
        if inner is not None and len(heads) == 3 and is_one(heads[2]) and len(shape_of(inner)) == 2:
            return inner if rows_of(inner) == rows_of(node) else None
        return None

    def _table(self, found: Scattered) -> tuple[fx.Node, fx.Node]:
        """What an extreme reads, node rows or edge rows, and the structure for it."""
        source = self._gathered(same(found.values))
        if source is not None:
            return source.table, self._structure(Gathered(found.base, found.index), source)
        emit = Emitter(self.program, found.values)
        with emit.after(found.index):
            numbers = emit.call(aggregation.edge_numbers, found.index, example=found.index.meta["val"])
        return found.values, self._make(found.index, numbers, rows_of(found.base), self._edges(found.index))

    def _counts(self, found: Scattered, node: fx.Node) -> fx.Node:
        """How many edges each row has, at least 1, as a column of the result's dims."""
        structure, end = self._with_end(found.index, found.base)
        if end == "column":
            structure = self._structure(*[Gathered(found.base, found.index)] * 2)
        example = node.meta["val"]
        emit = Emitter(self.program, node)
        with emit.after(structure):
            return emit.call(
                aggregation.edge_counts, structure, example.dim(), example.dtype, example=example
            )

    # ---- structures ----

    def _gathered(self, node: Any) -> Gathered | None:
        """A gather by numbers that are constants of the graph."""
        found = gathered(same(node))
        return found if found is not None and found.index in self.constants else None

    def _edges(self, index: fx.Node) -> Rows:
        rows = rows_of(index)
        assert rows is not None
        return rows

    def _structure(self, row: Gathered, column: Gathered) -> fx.Node:
        """The structure of the edges from the rows of one table to those of another."""
        return self._make(row.index, column.index, rows_of(row.table), rows_of(column.table))

    def _with_end(self, index: fx.Node, table: fx.Node) -> tuple[fx.Node, str]:
        """A structure with these numbers at one end, and which end; an old one, or with the likeliest other end."""
        rows = rows_of(table)
        for (row, column, of_row, of_column), node in self.structures.items():
            if (row, of_row) == (index, rows):
                return node, "row"
            if (column, of_column) == (index, rows):
                return node, "column"
        others = (g for g in self.gathers if g.index is not index and rows_of(g.index) == rows_of(index))
        other = next(others, Gathered(table, index))
        ends = [Gathered(table, index), other]
        if _is_foreign(index) and not _is_foreign(other.index):
            return self._structure(*ends[::-1]), "column"
        return self._structure(*ends), "row"

    def _make(self, row: fx.Node, column: fx.Node, of_row: Rows | None, of_column: Rows | None) -> fx.Node:
        assert of_row is not None
        assert of_column is not None
        key = (row, column, of_row, of_column)
        if key not in self.structures:
            emit = Emitter(self.program, column)
            with emit.after(last_of(self.program, row, column)):
                sizes = [constant_size(emit, rows, 16) for rows in (of_row, of_column)]
                made = emit.call(aggregation.edge_structure, row, column, *sizes)
            self.structures[key] = made
        return self.structures[key]


def _cast(emit: Emitter, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    if node.meta["val"].dtype == dtype:
        return node
    return emit.call(aten._to_copy.default, node, dtype=dtype)


def _attached(node: fx.Node) -> Any:
    return node.args[0] if calls(node, aten.detach) else node


def _is_foreign(index: fx.Node) -> bool:
    """Whether some of the nodes are other ranks'."""
    return is_by_source(index.meta["placement"])
