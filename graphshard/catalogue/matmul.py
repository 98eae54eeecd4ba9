"""Products: rows stay rows where the other factor is whole on every rank; a contraction over rows is partial."""

from __future__ import annotations

from itertools import chain

import torch

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.pointwise import broadcast_rows, is_one
from graphshard.catalogue.record import Op, Ops, Trait, over
from graphshard.ir.calls import calls
from graphshard.ir.placement import Placed, Placement, Rows

aten = torch.ops.aten


def linear(call: Call) -> Placement:
    """``x @ weight.T + bias`` over the last dim."""
    placed = call.values("input")
    call.check_whole("weight", "bias")
    if placed.dims[-1] is not None:
        call.refuse(
            "multiplies along the rows that are spread over the ranks",
            "transpose so that nodes are rows and features are columns",
        )
    return Placed((*placed.dims[:-1], *(None,) * (len(call.shape("weight")) - 1)))


def matmul(call: Call) -> Placement:
    """``mm``, ``bmm``, ``matmul``, ``mv``, ``dot``."""
    names = [n for n in ("self", "other", "mat2", "tensor2", "vec", "tensor") if n in call.args]
    left, right = names[0], names[1]
    return _product(call, left, right)


def addmm(call: Call) -> Placement:
    """``bias + a @ b``."""
    product = _product(
        call,
        next(n for n in ("mat1", "batch1", "mat") if n in call.args),
        next(n for n in ("mat2", "batch2", "vec") if n in call.args),
    )
    if product.partial:
        call.refuse("adds a bias to a product over rows that are spread over the ranks", "add it afterwards")
    bias = call.values("self")
    dims = broadcast_rows(
        call, [(bias, call.shape("self")), (product, tuple(call.node.meta["val"].shape))], len(product.dims)
    )
    return Placed(dims)


def _product(call: Call, left: str, right: str) -> Placed:
    a, b = call.values(left), call.values(right)
    sa, sb = call.shape(left), call.shape(right)
    contracted_b = len(sb) - 2 if len(sb) > 1 else 0
    rows = same_rows(call, [a, b], [len(sa) - 1, contracted_b])
    if rows is not None and (a.dims[-1] is None or b.dims[contracted_b] is None):
        call.refuse(
            f"multiplies along the rows {rows} with a factor that every rank holds whole",
            "pass a sparse adjacency, or make both factors node tensors",
        )
    batch = broadcast_rows(
        call,
        [(_cut(a, 2), sa[:-2]), (_cut(b, 2), sb[:-2])],
        max(len(sa), len(sb), 2) - 2,
    )
    tail: list[Rows | None] = []
    if len(sa) > 1:
        tail.append(a.dims[-2])
    if len(sb) > 1:
        tail.append(b.dims[-1])
    dims = (*batch, *tail)
    if sum(d is not None for d in dims) > 1:
        call.refuse(
            "makes a dense matrix of rows by rows over the ranks",
            "score only the pairs that the graph has edges for",
        )
    return Placed(dims, partial="sum" if rows is not None else None)


def einsum(call: Call) -> Placement:
    """``einsum``: a letter's rows are those of every operand that has it; a summed letter is a partial value."""
    operands = [call.values(t) for t in call["tensors"]]
    shapes = [call.shape(t) for t in call["tensors"]]
    left, _, right = str(call["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    letters = [_letters(term, len(shape)) for term, shape in zip(terms, shapes, strict=True)]
    rows: dict[str, Rows | None] = {}
    for letter in dict.fromkeys(chain.from_iterable(letters)):
        having = [
            (p, s, t.index(letter)) for p, s, t in zip(operands, shapes, letters, strict=True) if letter in t
        ]
        rows[letter] = same_rows(call, [p for p, _, _ in having], [d for _, _, d in having])
        for placed, shape, dim in having:
            if rows[letter] is not None and placed.dims[dim] is None and not is_one(shape[dim]):
                call.refuse(f"combines the rows {rows[letter]} with a tensor that every rank holds whole")
        if rows[letter] is not None and any(t.count(letter) > 1 for t in letters):
            call.refuse("takes the diagonal over rows that are spread over the ranks")
    out = (
        _letters(right, len(call.node.meta["val"].shape))
        if "->" in str(call["equation"])
        else _implied(letters)
    )
    summed = [letter for letter, found in rows.items() if found is not None and letter not in out]
    dims = tuple(rows[letter] for letter in out)
    if sum(d is not None for d in dims) + len(summed) > 1:
        call.refuse("makes a dense matrix of rows by rows over the ranks", "use the graph's own edges")
    return Placed(dims, partial="sum" if summed else None)


def _letters(term: str, ndim: int) -> list[str]:
    """One name for each dim; those of an ellipsis are numbered from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    hidden = ndim - len(before) - len(after) if dots else 0
    return [*before, *(f"...{i}" for i in range(hidden, 0, -1)), *after]


def _implied(letters: list[list[str]]) -> list[str]:
    """The output without an arrow: the ellipsis, then the letters that occur once, in order."""
    every = list(chain.from_iterable(letters))
    hidden = sorted({n for n in every if len(n) > 1}, key=lambda n: -int(n[3:]))
    return hidden + sorted(n for n in set(every) if len(n) == 1 and every.count(n) == 1)


def addr(call: Call) -> Placement:
    """``bias + outer(a, b)``."""
    a, b, bias = call.values("vec1"), call.values("vec2"), call.values("self")
    product = Placed((a.dims[0], b.dims[0]))
    if len(product.sharded) > 1:
        call.refuse("makes a dense matrix of rows by rows over the ranks")
    shape = tuple(call.node.meta["val"].shape)
    return Placed(broadcast_rows(call, [(bias, call.shape("self")), (product, shape)], 2))


def _cut(placed: Placed, dims: int) -> Placed:
    return Placed(placed.dims[:-dims], uniform=placed.uniform)


def layer_norm(call: Call) -> Placement:
    """Normalisation over the last dims, each row by itself."""
    placed = call.values("input")
    call.check_whole("weight", "bias")
    if any(d is not None for d in placed.dims[-len(call["normalized_shape"]) :]):
        call.refuse("normalises over the rows that are spread over the ranks")
    if calls(call.node, aten.native_layer_norm):
        stats = Placed(placed.dims)
        return (Placed(placed.dims), stats, stats)
    return Placed(placed.dims)


OPS: Ops = {
    aten.linear.default: Op(linear, Trait.PRODUCT | Trait.FRESH),
    aten.mm.default: Op(matmul, Trait.PRODUCT | Trait.FRESH),
    **over((aten.bmm.default, aten.matmul.default), Op(matmul, Trait.PRODUCT)),
    **over((aten.mv.default, aten.dot.default), matmul),
    aten.addmm.default: Op(addmm, Trait.PRODUCT | Trait.FRESH),
    aten.addmv.default: addmm,
    aten.addr.default: addr,
    aten.einsum.default: einsum,
    aten.baddbmm.default: addmm,
    aten.layer_norm.default: layer_norm,
    aten.native_layer_norm.default: layer_norm,
}
