"""Reductions: row-wise over feature dims; over node and edge rows a partial value, or a rewriting by a pass."""

from __future__ import annotations

import torch
from torch import fx

from graphshard.ir.placement import Placed, Placement, Rows
from graphshard.passes.infer.rules.call import Call, Rewrite, Rule, operator_name


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
    return _rewritten(call, "reduction")


def extreme(call: Call) -> Placement:
    """``amax``, ``max``, ``argmax`` and their kind: over rows, ties may span ranks."""
    placed = call.values("self")
    dims = reduced_dims(call, len(placed.dims))
    if call.get("dim") is None and "arg" in operator_name(call.node) and placed.sharded:
        if placed.sharded != (0,) or not all(isinstance(n, int) for n in call.shape("self")[1:]):
            call.refuse("numbers the elements of a tensor whose rows are not in dim 0", "name the dim")
    elif any(placed.dims[d] is not None for d in dims) and _is_complex(call):
        call.refuse("compares complex numbers")
    return _rewritten(call, "extreme")


def stackable(call: Call) -> Placement:
    """``prod``, ``logsumexp``, norms: the same op over the ranks' own values, stacked."""
    _, left, across = _split(call)
    if across and is_stacked(call.node):
        return Placed(left, partial="stack")
    return _rewritten(call, "stack")


def is_stacked(node: fx.Node) -> bool:
    """Whether all that reads a value is its stacking over the ranks: ``stack_reductions`` has seen to it."""
    return bool(node.users) and all(
        str(user.target) == "graphshard.stack_ranks.default" for user in node.users
    )


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


def _rewritten(call: Call, family: str) -> Placement:
    placed, left, across = _split(call)
    if across:
        call.edits.append(Rewrite(call.node, family))
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
        call.edits.append(Rewrite(call.node, "reduction"))
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


def _names(op: str, *overloads: str) -> list[str]:
    return [f"aten.{op}.{overload}" for overload in overloads]


def over(names: list[str], rule: Rule) -> dict[str, Rule]:
    """The same rule for several ops."""
    return dict.fromkeys(names, rule)


RULES: dict[str, Rule] = {
    **over(
        [
            *_names("sum", "default", "dim_IntList"),
            *_names("nansum", "default"),
            *_names("count_nonzero", "dim_IntList", "default"),
        ],
        sum_,
    ),
    **over(_names("any", "default", "dim", "dims"), any_),
    **over(_names("all", "default", "dim", "dims"), all_),
    **over(
        [
            *_names("mean", "default", "dim"),
            *_names("var", "default", "dim", "correction"),
            *_names("std", "default", "dim", "correction"),
            *_names("var_mean", "default", "dim", "correction"),
            *_names("std_mean", "default", "dim", "correction"),
        ],
        statistic,
    ),
    **over(
        [
            *_names("amax", "default"),
            *_names("amin", "default"),
            *_names("aminmax", "default"),
            *_names("max", "default", "dim"),
            *_names("min", "default", "dim"),
            *_names("argmax", "default"),
            *_names("argmin", "default"),
        ],
        extreme,
    ),
    **over(
        [
            *_names("prod", "default", "dim_int"),
            *_names("logsumexp", "default"),
            *_names("linalg_vector_norm", "default"),
            *_names("norm", "ScalarOpt_dim", "Scalar"),
        ],
        stackable,
    ),
    **over(_names("median", "default", "dim"), rowwise),
    **over(
        [
            *_names("softmax", "int"),
            *_names("log_softmax", "int"),
            *_names("_softmax", "default"),
            *_names("_log_softmax", "default"),
        ],
        softmax,
    ),
    **over(
        [
            *_names("cumsum", "default"),
            *_names("cumprod", "default"),
            *_names("sort", "default", "stable"),
            *_names("argsort", "default"),
            *_names("topk", "default"),
            *_names("glu", "default"),
            *_names("logcumsumexp", "default"),
        ],
        along_features,
    ),
}
