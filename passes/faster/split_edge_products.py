"""split_edge_products: a product of what edges read of their nodes is a product of the nodes.

Before::  z = cat([gather(x, A, "row"), gather(x, A, "column"), e], 1)     # [edges, 3 F]
          out = linear(z, W, b)                                            # [edges, 3 F] by [3 F, H]
After::   out = linear(e, W[:, 2F:], b) + gather(linear(x, W[:, :F]), A, "row")
              + gather(linear(x, W[:, F:2F]), A, "column")                 # [nodes, F] by [F, H], twice

The first layer of the networks on edges of MeshGraphNet or CGConv is such a product. There are more edges than nodes,
so most of its arithmetic goes, and no ``[edges, 3 F]`` is made and kept for backward. ``[a b] [U; V] = a U + b V`` is
the same number, rounded in another way. So two kinds of products stay as they are:

- of a difference of two reads (``x_j - x_i`` of EdgeConv): a small difference of large rows would lose its digits, and
  one that is exactly 0 would be noise, to which a ReLU gives another derivative;
- of what a maximum or minimum over edges is taken of: neighbours with equal features share its derivative, and they
  are equal to the last bit only where one product makes them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import shape_of
from graphshard.infer.emitter import Emitter
from graphshard.ir.calls import calls
from graphshard.ir.placement import Edges, Sorted
from graphshard.ir.program import Program
from graphshard.ops import aggregation
from graphshard.ops import local as local_ops
from graphshard.passes.faster.cost_model import Speeds, row_bytes
from graphshard.passes.faster.patterns import gathered, rows_of, scattered

aten = torch.ops.aten


@dataclass(frozen=True)
class SplitEdgeProducts:
    """Take the products of joined reads apart where that costs less for each edge; counts them.

    Attributes:
        speeds: of a machine.
    """

    speeds: Speeds = field(default_factory=Speeds)
    name: ClassVar[str] = "split_edge_products"

    def run(self, program: Program) -> int:
        edits = 0
        for node in list(program.graph.find_nodes(op="call_function", target=aten.linear.default)):
            found = _terms(node)
            if found is None or not self._is_cheaper(node, found) or _leads_to_extreme(node):
                continue
            node.replace_all_uses_with(_split(program, node, found))
            program.graph.eliminate_dead_code()
            edits += 1
        return edits

    def _is_cheaper(self, node: fx.Node, found: _Terms) -> bool:
        """Seconds for each edge, forward and backward, where there are many for each node."""
        joined, width = node.args[0], shape_of(node)[1]
        assert isinstance(joined, fx.Node)
        inner = shape_of(joined)[1] - sum(stop - start for _, start, stop in found.others)
        moved = 0.0
        if all(calls(user, aten.linear) for user in joined.users):  # it goes when all of them are split
            made = {joined, *(read for read in found.read_nodes if len(read.users) == 1)}
            moved = sum(4 * row_bytes(each) for each in made) / len(joined.users)
        before = 6 * inner * width / self.speeds.arithmetic + moved / self.speeds.memory
        # Each read is gathered and added to the rest: five rows are read or written, of its gradient two are.
        after = 7 * row_bytes(node) * len(found.reads) / self.speeds.memory
        return bool(after < before)


@dataclass
class _Terms:
    """What a product of joined columns is the sum of.

    Attributes:
        reads: for each table, and how edges read it, the columns of the matrix by which it is multiplied.
        others: values of the edges, with the columns of the matrix by which each is multiplied.
        read_nodes: the reads themselves.
    """

    reads: dict[tuple[Any, ...], list[tuple[int, int]]] = field(default_factory=dict)
    others: list[tuple[fx.Node, int, int]] = field(default_factory=list)
    read_nodes: list[fx.Node] = field(default_factory=list)


def _terms(product: fx.Node) -> _Terms | None:
    """The terms of ``linear(joined, W, b)``; None where nothing in it is read of nodes, or its matrix is not whole."""
    joined, matrix = product.args[:2]
    if not isinstance(joined, fx.Node) or not isinstance(rows_of(joined), (Edges, Sorted)):
        return None
    if rows_of(matrix) is not None or not isinstance(matrix, fx.Node) or matrix.meta["val"].dim() != 2:
        return None
    if len(shape_of(joined)) != 2:
        return None
    found, start = _Terms(), 0
    for piece in _pieces(joined):
        width = shape_of(piece)[1]
        if not isinstance(width, int) or piece.meta["val"].dtype != product.meta["val"].dtype:
            return None
        if _is_read(piece):
            found.reads.setdefault(_table_and_rest(piece), []).append((start, start + width))
            found.read_nodes.append(piece)
        else:
            found.others.append((piece, start, start + width))
        start += width
    return found if found.reads else None


def _leads_to_extreme(product: fx.Node) -> bool:
    """Whether a maximum or minimum over edges is taken of what comes of it."""
    seen, waiting = {product}, [product]
    while waiting:
        for user in waiting.pop().users:
            if _is_extreme(user):
                return True
            if user not in seen and isinstance(rows_of(user), (Edges, Sorted)):
                seen.add(user)
                waiting.append(user)
    return False


def _is_extreme(node: fx.Node) -> bool:
    if node.target in (aggregation.edge_extreme, local_ops.extreme):
        return True
    found = scattered(node)
    return found is not None and found.reduce in ("amax", "amin")


def _pieces(joined: fx.Node) -> list[fx.Node]:
    """The values that are joined along columns; the value itself where none are."""
    if calls(joined, aten.cat) and len(joined.args) > 1 and joined.args[1] in (1, -1):
        return list(joined.args[0])  # type: ignore[arg-type]
    return [joined]


def _is_read(node: fx.Node) -> bool:
    """Whether edges read rows of a table of nodes, by an op that reads rows of any width in the same way."""
    if node.target is aggregation.gather:
        return True
    return calls(node, aten.index, aten.index_select) and gathered(node) is not None


def _table_and_rest(read: fx.Node) -> tuple[Any, ...]:
    """What tells reads apart: the op, its table, and by what it reads."""
    return (read.target, *(tuple(a) if isinstance(a, list) else a for a in read.args))


def _split(program: Program, product: fx.Node, found: _Terms) -> fx.Node:
    matrix, bias = product.args[1], product.args[2] if len(product.args) > 2 else None
    example = product.meta["val"]
    emit = Emitter(program, product)

    def columns(start: int, stop: int) -> fx.Node:
        whole = stop - start == shape_of(matrix)[1]
        return matrix if whole else emit.call(aten.slice.Tensor, matrix, 1, start, stop)  # type: ignore[return-value]

    with emit.before(product):
        total: fx.Node | None = None
        if found.others:
            total = _rest(emit, [(value, columns(a, b)) for value, a, b in found.others], bias, example)
            bias = None
        for (target, table, *rest), parts in found.reads.items():
            part = columns(*parts[0])
            for other in parts[1:]:
                part = emit.call(aten.add.Tensor, part, columns(*other))
            projected = emit.call(aten.linear.default, table, part, *([] if bias is None else [bias]))
            bias = None
            arguments = [list(a) if isinstance(a, tuple) else a for a in rest]
            read = emit.call(target, projected, *arguments, example=example)
            total = read if total is None else emit.call(aten.add.Tensor, total, read, example=example)
    assert total is not None
    return total


def _rest(emit: Emitter, others: list[tuple[fx.Node, fx.Node]], bias: Any, example: Any) -> fx.Node:
    """The product of what is not read of nodes."""
    values, matrices = [value for value, _ in others], [part for _, part in others]
    value = values[0] if len(values) == 1 else emit.call(aten.cat.default, values, 1)
    matrix = matrices[0] if len(matrices) == 1 else emit.call(aten.cat.default, matrices, 1)
    return emit.call(aten.linear.default, value, matrix, *([] if bias is None else [bias]), example=example)
