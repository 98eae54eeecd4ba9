"""Reductions: row-wise over feature dims; over node and edge rows a partial value, or a rewriting by a pass."""

from __future__ import annotations

import torch
from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.edits import ExtremeOverRows, Rewrite, StackOverRanks, StatisticOverRows
from graphshard.catalogue.record import Ops, over
from graphshard.ir.calls import calls
from graphshard.ir.placement import Placed, Placement, Rows
from graphshard.ops import stack

aten = torch.ops.aten


def reduced_dims(call: Call, ndim: int) -> tuple[int, ...]:
    """The dims that the op reduces, as numbers in 0..ndim-1; all of them where none is named."""
    wanted = call.get("dim")
    if wanted is None or wanted == []:
        return tuple(range(ndim))
    chosen = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    return tuple(int(d) % ndim for d in chosen) if ndim else ()


def without(dims: tuple[Rows | None, ...], gone: tuple[int, ...], keepdim: bool) -> tuple[Rows | None, ...]:
    """The dims after a reduction."""
    if keepdim:
        return tuple(None if i in gone else rows for i, rows in enumerate(dims))
    return tuple(rows for i, rows in enumerate(dims) if i not in gone)


def _split(call: Call) -> tuple[Placed, tuple[Rows | None, ...], bool]:
    """The operand, the dims that stay, and whether rows that are spread over ranks are reduced."""
    placed = call.values("self")
    gone = reduced_dims(call, len(placed.dims))
    left = without(placed.dims, gone, bool(call.get("keepdim", False)))
    return placed, left, any(placed.dims[d] is not None for d in gone)


def sum_(call: Call) -> Placement:
    """A sum, or a count, over rows is a term of the global one."""
    return _term(call, "sum")


def any_(call: Call) -> Placement:
    """Whether any row is true on any rank."""
    return _term(call, "max")


def all_(call: Call) -> Placement:
    """Whether all rows are true on all ranks."""
    return _term(call, "min")


def _term(call: Call, reduce: str) -> Placement:
    placed, left, across = _split(call)
    return Placed(left, partial=reduce) if across else Placed(left, uniform=placed.uniform)


def statistic(call: Call) -> Placement:
    """``mean``, ``var``, ``std``: over rows they are rewritten with global counts."""
    return _rewritten(call, StatisticOverRows)


def extreme(call: Call) -> Placement:
    """``amax``, ``max``, ``argmax`` and their kind: over rows, ties may span ranks."""
    placed = call.values("self")
    dims = reduced_dims(call, len(placed.dims))
    if call.get("dim") is None and calls(call.node, aten.argmax, aten.argmin) and placed.sharded:
        if placed.sharded != (0,) or not all(isinstance(n, int) for n in call.shape("self")[1:]):
            call.refuse("numbers the elements of a tensor whose rows are not in dim 0", "name the dim")
    elif any(placed.dims[d] is not None for d in dims) and _is_complex(call):
        call.refuse("compares complex numbers")
    return _rewritten(call, ExtremeOverRows)


def stackable(call: Call) -> Placement:
    """``prod``, ``logsumexp``, norms: the same op over the ranks' own values, stacked."""
    _, left, across = _split(call)
    if across and is_stacked(call.node):
        return Placed(left, partial="stack")
    return _rewritten(call, StackOverRanks)


def is_stacked(node: fx.Node) -> bool:
    """Whether all that reads a value is its stacking over the ranks: ``stack_reductions`` has seen to it."""
    return bool(node.users) and all(user.target is stack.stack_ranks for user in node.users)


def rowwise(call: Call) -> Placement:
    """Reductions that may only run over dims that every rank holds whole."""
    placed, left, across = _split(call)
    if across:
        rows = next(r for r in placed.dims if r is not None)
        call.refuse(
            f"reduces the rows {rows} over all ranks in a way that needs all of them on one",
            "reduce over features, or use a sum, mean, max, min, prod, var, norm or logsumexp over the nodes",
        )
    return _results(call, left, uniform=placed.uniform)


def _rewritten(call: Call, kind: type[Rewrite]) -> Placement:
    placed, left, across = _split(call)
    if across:
        call.edits.append(kind(call.node))
    return _results(call, left, uniform=placed.uniform and not across)


def _results(call: Call, dims: tuple[Rows | None, ...], *, uniform: bool) -> Placement:
    """One placement for each value that the op returns."""
    result, value = Placed(dims, uniform=uniform), call.node.meta["val"]
    return tuple(result for _ in value) if isinstance(value, (list, tuple)) else result


def _is_complex(call: Call) -> bool:
    value = call["self"].meta["val"]
    return isinstance(value, torch.Tensor) and value.is_complex()


def softmax(call: Call) -> Placement:
    """``softmax`` / ``log_softmax``: along the rows it is rewritten by its definition."""
    placed = call.values("self")
    dim = call.dim("dim", len(placed.dims))
    if placed.dims and placed.dims[dim] is not None:
        call.edits.append(StatisticOverRows(call.node))
    return placed.plain()


def along_features(call: Call) -> Placement:
    """``softmax``, ``cumsum``, ``sort``, ``topk``: the shape stays, the dim must be whole on every rank."""
    placed = call.values("self")
    dim = call.dim("dim", len(placed.dims))
    if placed.dims and placed.dims[dim] is not None:
        call.refuse(
            f"runs along the rows {placed.dims[dim]}, which are spread over the ranks",
            "run it along a feature dim, or use torch_geometric.utils.softmax over an index",
        )
    value = call.node.meta["val"]
    return tuple(placed.plain() for _ in value) if isinstance(value, (list, tuple)) else placed.plain()


OPS: Ops = {
    **over(
        [
            aten.sum.default,
            aten.sum.dim_IntList,
            aten.nansum.default,
            aten.count_nonzero.dim_IntList,
            aten.count_nonzero.default,
        ],
        sum_,
    ),
    **over([aten.any.default, aten.any.dim, aten.any.dims], any_),
    **over([aten.all.default, aten.all.dim, aten.all.dims], all_),
    **over(
        [
            aten.mean.default,
            aten.mean.dim,
            aten.var.default,
            aten.var.dim,
            aten.var.correction,
            aten.std.default,
            aten.std.dim,
            aten.std.correction,
            aten.var_mean.default,
            aten.var_mean.dim,
            aten.var_mean.correction,
            aten.std_mean.default,
            aten.std_mean.dim,
            aten.std_mean.correction,
        ],
        statistic,
    ),
    **over(
        [
            aten.amax.default,
            aten.amin.default,
            aten.aminmax.default,
            aten.max.default,
            aten.max.dim,
            aten.min.default,
            aten.min.dim,
            aten.argmax.default,
            aten.argmin.default,
        ],
        extreme,
    ),
    **over(
        [
            aten.prod.default,
            aten.prod.dim_int,
            aten.logsumexp.default,
            aten.linalg_vector_norm.default,
            aten.norm.ScalarOpt_dim,
            aten.norm.Scalar,
        ],
        stackable,
    ),
    **over([aten.median.default, aten.median.dim], rowwise),
    **over(
        [
            aten.softmax.int,
            aten.log_softmax.int,
            aten._softmax.default,
            aten._log_softmax.default,
        ],
        softmax,
    ),
    **over(
        [
            aten.cumsum.default,
            aten.cumprod.default,
            aten.sort.default,
            aten.sort.stable,
            aten.argsort.default,
            aten.topk.default,
            aten.glu.default,
            aten.logcumsumexp.default,
        ],
        along_features,
    ),
}
