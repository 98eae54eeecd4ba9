"""Products: rows stay rows where the other factor is whole on every rank; a contraction over rows is partial."""

from __future__ import annotations

from graphshard.passes.rules.call import Call, Rule, same_rows
from graphshard.passes.rules.pointwise import broadcast_rows
from graphshard.placement import Placed, Placement, Rows


def linear(call: Call) -> Placement:
    """``x @ weight.T + bias`` over the last dim."""
    placed = call.values("input")
    for name in ("weight", "bias"):
        if call[name] is not None and call.tensor(name).sharded:
            call.refuse(f"takes a {name} that is spread over the ranks")
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
        call, "mat1" if "mat1" in call.args else "batch1", "mat2" if "mat2" in call.args else "batch2"
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


def _cut(placed: Placed, dims: int) -> Placed:
    return Placed(placed.dims[:-dims], uniform=placed.uniform)


def layer_norm(call: Call) -> Placement:
    """Normalisation over the last dims, each row by itself."""
    placed = call.values("input")
    for name in ("weight", "bias"):
        if call[name] is not None and call.tensor(name).sharded:
            call.refuse(f"takes a {name} that is spread over the ranks")
    if any(d is not None for d in placed.dims[-len(call["normalized_shape"]) :]):
        call.refuse("normalises over the rows that are spread over the ranks")
    if "native" in str(call.node.target):
        stats = Placed(placed.dims)
        return (Placed(placed.dims), stats, stats)
    return Placed(placed.dims)


RULES: dict[str, Rule] = {
    "aten.linear.default": linear,
    **dict.fromkeys(
        (
            "aten.mm.default",
            "aten.bmm.default",
            "aten.matmul.default",
            "aten.mv.default",
            "aten.dot.default",
        ),
        matmul,
    ),
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": layer_norm,
}
