"""Ops that run along feature dims, each row by itself: order statistics, windows, small matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.pointwise import broadcast_rows
from graphshard.catalogue.record import Ops, Rule, over
from graphshard.ir.placement import Placed, Placement, Rows

aten = torch.ops.aten


def along(call: Call) -> Placement:
    """The named dims keep their place (``cummax``, ``roll``); they must be whole on every rank."""
    placed = _operand(call)
    for dim in _named(call, len(placed.dims)):
        _whole(call, placed, dim)
    return _like(call, placed.dims)


def dropping(call: Call) -> Placement:
    """The named dims are reduced (``kthvalue``, ``mode``, ``nanmean``); they must be whole on every rank."""
    placed = _operand(call)
    return _like(call, _without(call, placed, _named(call, len(placed.dims))))


def last_dims(count: int) -> Rule:
    """An op on the last ``count`` dims (``conv1d``, ``det``, ``tril``); its other operands must be replicated."""

    def rule(call: Call) -> Placement:
        placed = _operand(call)
        for dim in range(max(len(placed.dims) - count, 0), len(placed.dims)):
            _whole(call, placed, dim)
        return _like(call, placed.dims[: max(len(placed.dims) - count, 0)])

    return rule


def pad(call: Call) -> Placement:
    """Padding of the last dims: two numbers for each."""
    return last_dims(len(call["pad"] if "pad" in call.args else call["padding"]) // 2)(call)


def unfold(call: Call) -> Placement:
    """Windows of a dim, in a new last dim."""
    placed = call.values("self")
    dim = int(call["dimension"]) % len(placed.dims)
    _whole(call, placed, dim)
    return Placed((*placed.dims, None))


def diagonal(call: Call) -> Placement:
    """The diagonal over two dims becomes the last dim."""
    placed = call.values("self")
    gone = [int(call[n]) % len(placed.dims) for n in ("dim1", "dim2")]
    for dim in gone:
        _whole(call, placed, dim)
    return Placed((*(r for d, r in enumerate(placed.dims) if d not in gone), None))


def diag_embed(call: Call) -> Placement:
    """The last dim becomes the diagonal of the last two."""
    placed = call.values("self")
    ndim = len(placed.dims) + 1
    if {int(call["dim1"]) % ndim, int(call["dim2"]) % ndim} != {ndim - 1, ndim - 2}:
        call.refuse("puts the diagonal into other dims than the last two", "permute the result")
    _whole(call, placed, len(placed.dims) - 1)
    return Placed((*placed.dims, None))


def renorm(call: Call) -> Placement:
    """Norms over all dims but one: row by row where that one holds the rows."""
    placed = call.values("self")
    keep = int(call["dim"]) % len(placed.dims)
    for dim in placed.sharded:
        if dim != keep:
            _whole(call, placed, dim)
    return placed.plain()


def one_hot(call: Call) -> Placement:
    """``one_hot(y, classes)``: a new last dim."""
    placed = call.values("self")
    if call["num_classes"] == -1:
        call.refuse("counts the classes on this rank", "give one_hot its number of classes")
    if isinstance(call["num_classes"], fx.Node) and call.rows_of_size(call["num_classes"])[1]:
        call.refuse("makes a class for each node or edge", "give one_hot a fixed number of classes")
    return Placed((*placed.dims, None))


def bucketize(call: Call) -> Placement:
    """Each value's place among boundaries that every rank holds."""
    values, name = ("self", "boundaries") if "boundaries" in call.args else ("self", "sorted_sequence")
    for other in (name, "sorter"):
        if isinstance(call.get(other), fx.Node) and call.tensor(other).sharded:
            call.refuse(
                "searches in a sequence that is spread over the ranks", "search in a parameter or buffer"
            )
    return Placed(call.values(values).dims)


def isin(call: Call) -> Placement:
    """Whether each value is one of some that every rank holds."""
    if call.tensor("test_elements").sharded:
        call.refuse("looks in values that are spread over the ranks", "look in a parameter or buffer")
    return Placed(call.values("elements").dims)


def cdist(call: Call) -> Placement:
    """Distances between the last-but-one dims of two tensors, which must be whole on every rank."""
    a, b = call.values("x1"), call.values("x2")
    for placed in (a, b):
        if any(d is not None for d in placed.dims[-2:]):
            call.refuse("makes a distance for every pair of rows", "compute those of the graph's own edges")
    shapes = call.shape("x1"), call.shape("x2")
    ndim = max(map(len, shapes)) - 2
    batch = broadcast_rows(
        call, [(Placed(p.dims[:-2]), s[:-2]) for p, s in zip((a, b), shapes, strict=True)], ndim
    )
    return Placed((*batch, None, None))


def pairwise_rows(call: Call) -> Placement:
    """``cosine_similarity`` and ``linalg_cross``: two tensors over the same rows, along one whole dim."""
    names = ("x1", "x2") if "x1" in call.args else ("self", "other")
    operands = [(call.values(n), call.shape(n)) for n in names]
    ndim = max(len(shape) for _, shape in operands)
    dims = list(broadcast_rows(call, operands, ndim))
    dim = int(call["dim"]) % ndim
    _whole(call, Placed(tuple(dims)), dim)
    if len(call.node.meta["val"].shape) < ndim:
        del dims[dim]
    return Placed(tuple(dims))


def group_norm(call: Call) -> Placement:
    """Statistics of each row's groups of channels."""
    placed = call.values("input")
    call.check_whole("weight", "bias")
    if any(d is not None for d in placed.dims[1:]):
        call.refuse("normalises over the rows that are spread over the ranks", "keep nodes in dim 0")
    return Placed(placed.dims)


def rms_norm(call: Call) -> Placement:
    """``rms_norm`` over the last dims."""
    placed = call.values("input")
    call.check_whole("weight", "bias")
    if any(d is not None for d in placed.dims[-len(call["normalized_shape"]) :]):
        call.refuse("normalises over the rows that are spread over the ranks")
    return Placed(placed.dims)


def attention(call: Call) -> Placement:
    """``scaled_dot_product_attention`` within each row, or of all rows to keys that every rank holds."""
    query, key, value = (call.values(n) for n in ("query", "key", "value"))
    if call["dropout_p"]:
        call.refuse("drops attention weights at random", "set its dropout to 0")
    for placed in (key, value):
        if any(d is not None for d in placed.dims[-2:]):
            call.refuse(
                "lets every row attend to every row, which are spread over the ranks",
                "attend along the graph's edges, as TransformerConv does",
            )
    _whole(call, query, len(query.dims) - 1)
    operands = [(Placed(p.dims[:-2]), call.shape(n)[:-2]) for p, n in
                ((query, "query"), (key, "key"), (value, "value"))]  # fmt: skip
    if isinstance(call["attn_mask"], fx.Node) and call.tensor("attn_mask").sharded:
        call.refuse("takes an attention mask that is spread over the ranks")
    ndim = max(len(shape) for _, shape in operands)
    return Placed((*broadcast_rows(call, operands, ndim), query.dims[-2], None))


def cell(call: Call) -> Placement:
    """``gru_cell``, ``lstm_cell``, ``rnn_cell``: inputs and states over the same rows in dim 0."""
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    operands = [call.values("input"), *(call.values(s) for s in states)]
    _replicated_rest(call, [call["input"], *states])
    if any(d is not None for p in operands for d in p.dims[1:]):
        call.refuse("takes features that are spread over the ranks", "keep nodes in dim 0")
    rows = _common(call, operands, [0] * len(operands))
    return _like(call, (rows,))


def recurrent(call: Call) -> Placement:
    """``lstm``, ``gru``, ``rnn``: sequences of whole rows; the states have their rows in dim 1."""
    if call["dropout"] and call["train"] and call["num_layers"] > 1:
        call.refuse("drops values between its layers at random", "set its dropout to 0")
    if "input" not in call.args or "batch_first" not in call.args:
        call.refuse("runs over packed sequences", "give it a padded tensor")
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    dim = 0 if call["batch_first"] else 1
    operands = [call.values("input"), *(call.values(s) for s in states)]
    _replicated_rest(call, [call["input"], *states])
    if len(operands[0].dims) != 3 or any(d != dim for d in operands[0].sharded):
        call.refuse(
            "runs along rows that are spread over the ranks", "let each node's sequence be a dim of its own"
        )
    rows = _common(call, operands, [dim] + [1] * len(states))
    out: list[Rows | None] = [None, None, None]
    out[dim] = rows
    return (Placed(tuple(out)), *(Placed((None, rows, None)) for _ in states))


def _common(call: Call, operands: list[Placed], dims: list[int]) -> Rows | None:
    rows = same_rows(call, operands, dims)
    if rows is not None and any(p.dims[d] is None for p, d in zip(operands, dims, strict=True)):
        call.refuse(
            f"runs over rows {rows} with a state that every rank holds whole", "make it one for each row"
        )
    return rows


def _operand(call: Call) -> Placed:
    """The tensor that the op runs over; every other one must be the same on all ranks."""
    name = "self" if "self" in call.args else "input" if "input" in call.args else next(iter(call.args))
    placed = call.values(name)
    _replicated_rest(call, [call[name]])
    return placed


def _replicated_rest(call: Call, known: list[Any]) -> None:
    for node in call.node.all_input_nodes:
        if node not in known and call.tensor(node).sharded:
            call.refuse(f"takes {node.name}, which is spread over the ranks, beside its rows")


def _named(call: Call, ndim: int) -> list[int]:
    given = next((call[n] for n in ("dim", "dims") if n in call.args), None)
    if given is None or given == []:
        return list(range(ndim))
    return [int(d) % ndim for d in (given if isinstance(given, (list, tuple)) else [given])] if ndim else []


def _whole(call: Call, placed: Placed, dim: int) -> None:
    if placed.dims and placed.dims[dim] is not None:
        call.refuse(
            f"runs along the rows {placed.dims[dim]}, which are spread over the ranks",
            "run it along a feature dim",
        )


def _without(call: Call, placed: Placed, gone: list[int]) -> tuple[Rows | None, ...]:
    for dim in gone:
        _whole(call, placed, dim)
    if call.get("keepdim"):
        return placed.dims
    return tuple(r for d, r in enumerate(placed.dims) if d not in gone)


def _like(call: Call, leading: tuple[Rows | None, ...]) -> Placement:
    """Every output with these rows, and dims after them that are whole."""
    value = call.node.meta["val"]
    if isinstance(value, torch.Tensor):
        return Placed((*leading, *(None,) * (value.dim() - len(leading))))
    return tuple(Placed((*leading, *(None,) * (v.dim() - len(leading)))) for v in value)


OPS: Ops = {
    **over(
        [
            aten.cummax.default,
            aten.cummin.default,
            aten.roll.default,
            aten.repeat_interleave.self_int,
            aten.diff.default,
            aten.rot90.default,
        ],
        along,
    ),
    **over([aten.kthvalue.default, aten.mode.default, aten.nanmedian.dim, aten.nanmean.default], dropping),
    **over(
        [
            aten.max_pool1d.default,
            aten.avg_pool1d.default,
            aten.adaptive_avg_pool1d.default,
            aten.adaptive_max_pool1d.default,
            aten.max_pool1d_with_indices.default,
        ],
        last_dims(2),
    ),
    **over([aten.view_as_complex.default], last_dims(1)),
    **over([aten.view_as_real.default], last_dims(0)),
    **over(
        [
            aten.conv1d.default,
            aten.conv1d.padding,
            aten.linalg_det.default,
            aten.det.default,
            aten.linalg_inv.default,
            aten.linalg_slogdet.default,
            aten.tril.default,
            aten.triu.default,
            aten.trace.default,
            aten.diag.default,
            aten.linalg_matrix_exp.default,
            aten.matrix_exp.default,
            aten.linalg_cholesky.default,
            aten.linalg_eigh.default,
            aten.linalg_eigvalsh.default,
            aten.linalg_svdvals.default,
            aten.max_pool2d.default,
            aten.avg_pool2d.default,
            aten.adaptive_avg_pool2d.default,
        ],
        last_dims(2),
    ),
    **over([aten.conv2d.default, aten.conv2d.padding], last_dims(3)),
    **over(
        [
            aten.constant_pad_nd.default,
            aten.pad.default,
            aten.reflection_pad1d.default,
            aten.replication_pad1d.default,
            aten.reflection_pad2d.default,
        ],
        pad,
    ),
    **over([aten.cosine_similarity.default, aten.linalg_cross.default, aten.cross.default], pairwise_rows),
    **over(
        [
            aten.gru_cell.default,
            aten.lstm_cell.default,
            aten.rnn_tanh_cell.default,
            aten.rnn_relu_cell.default,
        ],
        cell,
    ),
    **over([aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input], recurrent),
    aten.unfold.default: unfold,
    aten.diagonal.default: diagonal,
    aten.diag_embed.default: diag_embed,
    aten.renorm.default: renorm,
    aten.one_hot.default: one_hot,
    aten.bucketize.Tensor: bucketize,
    aten.searchsorted.Tensor: bucketize,
    aten.isin.Tensor_Tensor: isin,
    aten.cdist.default: cdist,
    aten._cdist_forward.default: cdist,
    aten.group_norm.default: group_norm,
    aten.rms_norm.default: rms_norm,
    aten.scaled_dot_product_attention.default: attention,
}
