"""Reductions: row-wise over feature dims, a partial value over node and edge rows."""

from __future__ import annotations

from graphshard.passes.rules.call import Call, Rewrite, Rule
from graphshard.placement import Placed, Placement, Rows


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
    """A sum over rows is a term of the global sum."""
    placed, left, across = _split(call)
    return Placed(left, partial="sum") if across else Placed(left, uniform=placed.uniform)


def expanded(call: Call) -> Placement:
    """``mean``, ``var``, ``std``: over rows they are rewritten with global counts."""
    placed, left, across = _split(call)
    if across:
        call.edits.append(Rewrite(call.node, "reduction"))
    return Placed(left, uniform=placed.uniform and not across)


def rowwise(call: Call) -> Placement:
    """Reductions that may only run over dims that every rank holds whole."""
    placed, left, across = _split(call)
    if across:
        rows = next(r for r in placed.dims if r is not None)
        call.refuse(
            f"reduces the rows {rows} over all ranks, which is supported for sum, mean, var and std so far",
            "reduce over features, or use a sum or a mean over the nodes",
        )
    result = Placed(left, uniform=placed.uniform)
    value = call.node.meta["val"]
    return tuple(result for _ in value) if isinstance(value, (list, tuple)) else result


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
    **over(_names("sum", "default", "dim_IntList"), sum_),
    **over(_names("mean", "default", "dim"), expanded),
    **over(_names("var", "default", "dim", "correction"), expanded),
    **over(_names("std", "default", "dim", "correction"), expanded),
    **over(
        [
            *_names("amax", "default"),
            *_names("amin", "default"),
            *_names("max", "default", "dim"),
            *_names("min", "default", "dim"),
            *_names("argmax", "default"),
            *_names("argmin", "default"),
            *_names("prod", "default", "dim_int"),
            *_names("any", "default", "dim", "dims"),
            *_names("all", "default", "dim", "dims"),
            *_names("logsumexp", "default"),
            *_names("linalg_vector_norm", "default"),
            *_names("norm", "ScalarOpt_dim", "Scalar"),
            *_names("nansum", "default"),
            *_names("count_nonzero", "dim_IntList", "default"),
            *_names("median", "default", "dim"),
            *_names("var_mean", "correction", "dim", "default"),
            *_names("std_mean", "correction", "dim", "default"),
        ],
        rowwise,
    ),
    **over(
        [
            *_names("softmax", "int"),
            *_names("log_softmax", "int"),
            *_names("_softmax", "default"),
            *_names("_log_softmax", "default"),
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
