"""One expression for each op family: what a row-local program may call on rows of nodes and edges.

Each entry takes a :class:`Values` and returns a tensor of node rows, edge rows, or one that is equal on all
ranks. ``ROW_OPS`` are exact on any graph and partition; bundles of them are captured together to save time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Values:
    """What an expression reads.

    Attributes:
        h: float ``[N, 6]``, positive and negative, with a gradient to x and to parameters.
        g: float ``[N, 6]``, another one. m: float ``[E, 6]``, a message for each edge.
        x, z, y, mask, src, dst: the model's inputs. w, table: parameters, ``[6]`` and ``[6, 4]``.
        layers: recurrent and other layers to call.
    """

    h: Tensor
    g: Tensor
    m: Tensor
    x: Tensor
    z: Tensor
    y: Tensor
    mask: Tensor
    src: Tensor
    dst: Tensor
    w: Tensor
    table: Tensor
    layers: nn.ModuleDict


Expression = Callable[[Values], Tensor]


def _written(t: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    """A copy that ``write`` changes in place."""
    copy = t.clone()
    write(copy)
    return copy


def _set(index, value) -> Callable[[Tensor], object]:
    return lambda t: t.__setitem__(index, value)


PRODUCTS: dict[str, Expression] = {
    "einsum of rows and a matrix": lambda v: torch.einsum("nf,fo->no", v.h, v.table),
    "einsum in blocks": lambda v: torch.einsum("nbc,bcd->nbd", v.h.view(-1, 2, 3), v.table.view(2, 3, 4)),
    "einsum of rows with rows": lambda v: torch.einsum("nf,nf->n", v.h, v.g),
    "einsum over rows": lambda v: torch.einsum("nf,no->fo", v.h, v.g),
    "einsum with an ellipsis": lambda v: torch.einsum("...f,fo->...o", v.h, v.table),
    "einsum of three": lambda v: torch.einsum("nf,fo,no->n", v.h, v.table, v.g[:, :4]),
    "einsum, outer per row": lambda v: torch.einsum("ni,nj->nij", v.h, v.g),
    "tensordot": lambda v: torch.tensordot(v.h, v.table, dims=([1], [0])),
    "tensordot over rows": lambda v: torch.tensordot(v.h, v.g, dims=([0], [0])),
    "tensordot of a middle dim": lambda v: torch.tensordot(
        v.h.view(-1, 3, 2), v.table.view(2, 3, 4), ([1], [1])
    ),
    "tensordot of the last dims by their number": lambda v: torch.tensordot(
        v.h.view(-1, 2, 3), v.table.view(2, 3, 4), 2
    ),
    "tensordot of negative dims": lambda v: torch.tensordot(
        v.m.view(-1, 2, 3), v.table.view(2, 3, 4), dims=((-2,), (-3,))
    ),
    "tensordot of two dims, crossed": lambda v: torch.tensordot(
        v.m.view(-1, 2, 3), v.table.view(3, 2, 4), dims=([1, 2], [1, 0])
    ),
    "tensordot with the rows on the right": lambda v: torch.tensordot(
        v.table.view(3, 2, 4), v.h.view(-1, 3, 2), ((0,), (1,))
    ).permute(2, 0, 1, 3),
    "tensordot over rows and a dim": lambda v: torch.tensordot(
        v.h.view(-1, 2, 3), v.g.view(-1, 3, 2), ([0, 2], [0, 1])
    ),
    "tensordot of no dim": lambda v: torch.tensordot(v.h, v.w, 0),
    "tensordot of a dim of one": lambda v: torch.tensordot(v.h[:, None], v.w[:, None], ([2], [1])),
    "outer per row by bmm": lambda v: torch.bmm(v.h.unsqueeze(2), v.g.unsqueeze(1)).flatten(1),
    "outer of rows and features": lambda v: torch.outer(v.h[:, 0], v.w),
    "baddbmm": lambda v: torch.baddbmm(v.h.view(-1, 1, 6), v.h.view(-1, 1, 6), v.g.view(-1, 6, 1) * v.w),
    "kron of parameters": lambda v: torch.kron(v.w, v.w[:1]) * v.h,
    "inner": lambda v: torch.inner(v.h, v.w),
    "vecdot": lambda v: torch.linalg.vecdot(v.h, v.g),
    "cross": lambda v: torch.cross(v.h[:, :3], v.g[:, :3], dim=1),
    "linalg cross": lambda v: torch.linalg.cross(v.h[:, :3], v.g[:, 3:]),
    "bilinear": lambda v: F.bilinear(v.h, v.g, torch.outer(v.w, v.w).view(1, 6, 6), v.w[:1]),
    "mv": lambda v: torch.mv(v.h, v.w),
    "addmv": lambda v: torch.addmv(v.h[:, 0], v.h, v.w),
    "addr": lambda v: torch.addr(v.h, v.h[:, 0], v.w),
    "attention within rows": lambda v: F.scaled_dot_product_attention(
        v.h.view(-1, 1, 3, 2), v.g.view(-1, 1, 3, 2), v.h.view(-1, 1, 3, 2)
    ).flatten(1),
}

NORMS: dict[str, Expression] = {
    "group norm": lambda v: F.group_norm(v.h, 2, v.w, v.w),
    "group norm, 3-D": lambda v: F.group_norm(v.h.view(-1, 2, 3), 2),
    "rms norm": lambda v: F.rms_norm(v.h, (6,), v.w),
    "layer norm": lambda v: F.layer_norm(v.h, (6,), v.w),
    "layer norm, 3-D": lambda v: F.layer_norm(v.h.view(-1, 2, 3), (2, 3)),
    "instance norm over nodes": lambda v: F.instance_norm(v.h.t()[None])[0].t(),
    "instance norm within rows": lambda v: F.instance_norm(v.h.view(-1, 2, 3)),
    "local response norm": lambda v: F.local_response_norm(v.h.view(-1, 2, 3), 2),
    "normalize": lambda v: F.normalize(v.h),
    "normalize in L1": lambda v: F.normalize(v.h, p=1.0, dim=1),
    "norm over features": lambda v: v.h.norm(dim=1),
    "norm p=3": lambda v: torch.linalg.vector_norm(v.h, 3, dim=-1),
    "linalg norm": lambda v: torch.linalg.norm(v.h, dim=1),
    "weight norm": lambda v: F.linear(
        v.h, torch._weight_norm(v.table, v.table.norm(dim=1, keepdim=True)).t()
    ),
    "renorm": lambda v: F.normalize(v.m, dim=1),
    "matrix norm per row": lambda v: torch.linalg.matrix_norm(v.h.view(-1, 2, 3)),
}

CELLS: dict[str, Expression] = {
    "gru cell": lambda v: v.layers["gru_cell"](v.h, v.g),
    "lstm cell": lambda v: torch.cat(v.layers["lstm_cell"](v.h, (v.g, v.h)), 1),
    "lstm cell without a state": lambda v: v.layers["lstm_cell"](v.h)[0],
    "rnn cell": lambda v: v.layers["rnn_cell"](v.h, v.g),
    "lstm": lambda v: v.layers["lstm"](v.h.view(-1, 2, 3))[0].flatten(1),
    "lstm, time first": lambda v: v.layers["lstm_time"](v.h.view(-1, 2, 3).transpose(0, 1))[0].transpose(
        0, 1
    ),
    "gru": lambda v: v.layers["gru"](v.h.view(-1, 2, 3))[1][0],
    "rnn": lambda v: v.layers["rnn"](v.h.view(-1, 2, 3))[0].flatten(1),
    "convolution over features": lambda v: v.layers["conv"](v.h.view(-1, 2, 3)).flatten(1),
    "max pool over features": lambda v: F.max_pool1d(v.h.view(-1, 2, 3), 2).flatten(1),
    "avg pool over features": lambda v: F.avg_pool1d(v.h.view(-1, 2, 3), 2).flatten(1),
    "adaptive pool over features": lambda v: F.adaptive_avg_pool1d(v.h.view(-1, 2, 3), 1).flatten(1),
}

LOSSES: dict[str, Expression] = {
    "kl_div": lambda v: F.kl_div(v.h.log_softmax(1), v.g.softmax(1), reduction="batchmean"),
    "kl_div, rows": lambda v: F.kl_div(
        v.h.log_softmax(1), v.g.log_softmax(1), reduction="none", log_target=True
    ),
    "cosine similarity": lambda v: F.cosine_similarity(v.h, v.g),
    "pairwise distance": lambda v: F.pairwise_distance(v.h, v.g),
    "cosine embedding loss": lambda v: F.cosine_embedding_loss(v.h, v.g, v.mask * 2 - 1),
    "margin ranking loss": lambda v: F.margin_ranking_loss(v.h, v.g, (v.mask * 2 - 1)[:, None], margin=0.1),
    "triplet loss": lambda v: F.triplet_margin_loss(v.h, v.g, v.h * v.w),
    "hinge embedding loss": lambda v: F.hinge_embedding_loss(v.h[:, 0], v.mask * 2 - 1),
    "multi margin loss, rows": lambda v: F.multi_margin_loss(v.h, v.y, reduction="none"),
    "multilabel soft margin loss": lambda v: F.multilabel_soft_margin_loss(v.h, (v.g > 0).double()),
    "soft margin loss": lambda v: F.soft_margin_loss(v.h[:, 0], v.mask * 2.0 - 1),
    "huber": lambda v: F.huber_loss(v.h, v.g, delta=0.5),
    "smooth l1": lambda v: F.smooth_l1_loss(v.h, v.g),
    "l1, sum": lambda v: F.l1_loss(v.h, v.g, reduction="sum"),
    "mse": lambda v: F.mse_loss(v.m, v.m.detach() * 2),
    "bce": lambda v: F.binary_cross_entropy(v.h.sigmoid()[:, 0], v.mask.double()),
    "bce with logits and pos_weight": lambda v: F.binary_cross_entropy_with_logits(
        v.h, (v.g > 0).double(), pos_weight=v.w.detach().abs()
    ),
    "nll": lambda v: F.nll_loss(v.h.log_softmax(1), v.y),
    "poisson nll": lambda v: F.poisson_nll_loss(v.h, v.g.abs()),
    "cross entropy with smoothing": lambda v: F.cross_entropy(v.h, v.y, label_smoothing=0.1),
    "cross entropy with weights and smoothing": lambda v: F.cross_entropy(
        v.h, v.y, weight=v.w.detach().abs(), label_smoothing=0.2
    ),
    "cross entropy of probabilities": lambda v: F.cross_entropy(v.h, v.g.softmax(1)),
    "masked cross entropy": lambda v: F.cross_entropy(
        v.h[v.mask], v.y[v.mask], label_smoothing=0.1, reduction="sum"
    ),
}

WRITES: dict[str, Expression] = {
    "a column": lambda v: _written(v.h, _set((slice(None), 0), 1.0)),
    "a column of values": lambda v: _written(v.h, _set((slice(None), 2), v.g[:, 1])),
    "some columns": lambda v: _written(v.h, _set((slice(None), slice(0, 3)), v.g[:, 3:])),
    "columns in steps": lambda v: _written(v.h, _set((slice(None), slice(0, 6, 2)), v.w[:3])),
    "columns added": lambda v: _written(v.h, lambda t: t[:, :3].add_(v.g[:, :3] * v.w[:3])),
    "a column scaled": lambda v: _written(v.h, lambda t: t[:, 1].mul_(v.w[0])),
    "a last column": lambda v: _written(v.h, _set((Ellipsis, -1), v.g[..., 0])),
    "select_scatter": lambda v: torch.select_scatter(v.h, v.g[:, 0], 1, 3),
    "slice_scatter": lambda v: torch.slice_scatter(v.h, v.g[:, :2], 1, 1, 3),
    "masked fill": lambda v: _written(v.h, lambda t: t.masked_fill_(v.mask[:, None], 2.0)),
    "masked rows": lambda v: _written(v.h, _set(v.mask, 0.0)),
    "one class of each row": lambda v: _written(v.h, _set((torch.arange(v.h.size(0)), v.y), v.g[:, 0])),
    "columns by a list": lambda v: _written(v.h, _set((slice(None), [0, 2]), v.g[:, :2])),
    "index_fill of columns": lambda v: v.h.index_fill(1, torch.tensor([0, 2]), 3.0),
    "index_copy of columns": lambda v: v.h.index_copy(1, torch.tensor([0, 2]), v.g[:, :2]),
    "index_copy of nodes by number": lambda v: v.h.clone().index_copy(
        0, v.mask.nonzero().view(-1), v.g[v.mask.nonzero().view(-1)]
    ),
    "scatter over features": lambda v: torch.zeros_like(v.h).scatter(1, v.y[:, None], 1.0) * v.h,
    "scatter_add over features": lambda v: v.h.scatter_add(1, v.y[:, None], v.g[:, :1]),
    "index_put with a condition on elements": lambda v: _written(v.h, _set(v.h.detach() > 0.3, 0.5)),
}

READS: dict[str, Expression] = {
    "the score of each row's class": lambda v: v.h[torch.arange(v.h.size(0)), v.y],
    "a node's row and a class by edge": lambda v: v.h[v.src, v.y[v.dst]],
    "a parameter by two indices": lambda v: v.table[v.y, v.z],
    "columns by a list": lambda v: v.h[:, [0, 3, 3]],
    "rows of an edge_index by a list": lambda v: v.h[torch.stack([v.src, v.dst])[[1, 0]][0]],
    "gather of features": lambda v: v.h.gather(1, v.y[:, None]),
    "nonzero of a mask": lambda v: v.h[v.mask.nonzero().view(-1)].sum(0),
    "nonzero as a tuple": lambda v: v.h[v.mask.nonzero(as_tuple=True)[0]].sum(0),
    "where of a condition": lambda v: v.h[torch.where(v.mask)[0]].sum(0),
    "masked_select of rows": lambda v: v.h[:, 0].masked_select(v.mask).sum(),
    "index_select of columns": lambda v: v.h.index_select(1, torch.tensor([2, 0])),
    "one hot": lambda v: F.one_hot(v.y, 6) * v.h,
    "bucketize": lambda v: torch.bucketize(v.h.detach(), torch.tensor([-0.5, 0.1, 0.6]).double()) * v.h,
    "searchsorted": lambda v: torch.searchsorted(torch.tensor([-0.5, 0.1]).double(), v.h.detach()) * v.h,
    "one of some values": lambda v: torch.isin(v.y, torch.tensor([0, 3]))[:, None] * v.h,
    "embedding bag over a row": lambda v: F.embedding(v.z, v.table).sum(1),
}

SHAPES: dict[str, Expression] = {
    "movedim": lambda v: v.h.view(-1, 2, 3).movedim(0, 2).movedim(2, 0),
    "swapaxes": lambda v: v.h.view(-1, 2, 3).swapaxes(1, 2).flatten(1),
    "tile": lambda v: v.h.tile(1, 2),
    "repeat_interleave of features": lambda v: v.h.repeat_interleave(2, dim=1),
    "roll of features": lambda v: v.h.roll(1, dims=1),
    "unfold of features": lambda v: v.h.unfold(1, 2, 1).flatten(1),
    "unflatten": lambda v: v.h.unflatten(1, (2, 3)).sum(1),
    "chunk": lambda v: v.h.chunk(3, dim=1)[1],
    "rows in one chunk": lambda v: torch.cat([piece * 2 for piece in v.h.chunk(1)]),
    "rows in one chunk, by name": lambda v: torch.chunk(v.m, chunks=1, dim=-2)[0].tanh(),
    "rows in one piece of their number": lambda v: torch.split(v.m, v.m.size(0))[0].exp(),
    "rows in one piece of their length": lambda v: v.h.split(split_size=len(v.h), dim=0)[0].tanh(),
    "rows in one piece of a list": lambda v: v.m.split([v.m.size(0)])[0].sin(),
    "rows in one piece of any size": lambda v: v.h.split(2**40)[0].cos(),
    "columns of rows in one piece": lambda v: v.h.t().split(v.h.shape[0], 1)[0].t().neg(),
    "rows in one of tensor_split": lambda v: v.m.tensor_split(1)[0].square(),
    "tensor_split": lambda v: v.h.tensor_split(3, dim=1)[2],
    "hsplit": lambda v: v.h.hsplit(2)[1],
    "unbind": lambda v: v.h.unbind(1)[3],
    "narrow": lambda v: v.h.narrow(1, 2, 3),
    "diagonal of rows": lambda v: torch.einsum("ni,nj->nij", v.h, v.g).diagonal(dim1=1, dim2=2),
    "diag of a parameter": lambda v: v.h @ torch.diag(v.w),
    "diag_embed of rows": lambda v: torch.diag_embed(v.h).sum(1),
    "trace of a parameter": lambda v: v.h * v.table[:4].trace(),
    "tril of a parameter": lambda v: v.h @ torch.outer(v.w, v.w).tril(),
    "triu of rows": lambda v: torch.einsum("ni,nj->nij", v.h, v.g).triu(1).sum(1),
    "pad of features": lambda v: F.pad(v.h, (1, 2), value=0.5),
    "pad, reflecting": lambda v: F.pad(v.h.view(-1, 2, 3), (1, 1), mode="reflect").flatten(1),
    "squeeze": lambda v: v.h[:, :1].squeeze(1),
    "atleast_2d": lambda v: torch.atleast_2d(v.h),
    "column_stack": lambda v: torch.column_stack([v.h, v.g[:, 0]]),
    "hstack": lambda v: torch.hstack([v.h, v.g]),
    "dstack": lambda v: torch.dstack([v.h, v.g]).flatten(1),
    "meshgrid of parameters": lambda v: v.h * torch.meshgrid(v.w, v.w, indexing="ij")[0][0],
    "cartesian product of constants": lambda v: (
        v.h[:, :4] * torch.cartesian_prod(torch.arange(2), torch.arange(2))[:, 0]
    ),
    "view_as": lambda v: v.h.view(-1, 2, 3).view_as(v.g.view(-1, 2, 3)).flatten(1),
    "reshape_as": lambda v: v.h.reshape_as(v.g),
    "expand": lambda v: v.h[:, :1].expand(-1, 6),
    "flatten and unsqueeze": lambda v: v.h.unsqueeze(-1).flatten(1),
    "ravel of a parameter": lambda v: v.h * v.table.ravel()[:6],
    "flip of features": lambda v: v.h.flip(1),
    "fliplr": lambda v: v.h.fliplr(),
    "rot90 of features": lambda v: v.h.view(-1, 2, 3).rot90(1, (1, 2)).flatten(1),
    "T and mT": lambda v: v.h.T.T + v.h.view(-1, 2, 3).mT.flatten(1),
    "complex": lambda v: torch.view_as_real(torch.view_as_complex(v.h.view(-1, 3, 2)) * 1j).flatten(1),
}

POINTWISE: dict[str, Expression] = {
    "clamp with tensors": lambda v: v.h.clamp(min=v.g - 1, max=v.w.abs()),
    "lerp": lambda v: torch.lerp(v.h, v.g, v.w),
    "lerp by a number": lambda v: torch.lerp(v.h, v.g, 0.3),
    "addcmul": lambda v: torch.addcmul(v.h, v.g, v.w, value=0.5),
    "addcdiv": lambda v: torch.addcdiv(v.h, v.g, v.w.abs() + 1),
    "atan2": lambda v: torch.atan2(v.h, v.g),
    "hypot": lambda v: torch.hypot(v.h, v.g),
    "logaddexp": lambda v: torch.logaddexp(v.h, v.g),
    "xlogy": lambda v: torch.xlogy(v.h, v.g.abs() + 1),
    "heaviside": lambda v: torch.heaviside(v.h.detach(), v.w.detach()) * v.h,
    "copysign": lambda v: torch.copysign(v.h, v.g.detach()),
    "remainder and fmod": lambda v: torch.remainder(v.h, 0.7) + torch.fmod(v.h, 0.7),
    "maximum": lambda v: torch.maximum(v.h, v.w),
    "activations": lambda v: (
        F.mish(v.h) + F.celu(v.h) + F.selu(v.h) + F.softplus(v.h) + F.hardtanh(v.h) + F.softsign(v.h)
    ),
    "more activations": lambda v: (
        F.hardsigmoid(v.h) + F.hardswish(v.h) + F.tanhshrink(v.h) + F.softshrink(v.h) + F.hardshrink(v.h)
    ),
    "threshold and relu6": lambda v: F.threshold(v.h, 0.1, 0.0) + F.relu6(v.h) + F.logsigmoid(v.h),
    "complex numbers": lambda v: torch.complex(v.h, v.g).abs() + torch.polar(v.h.exp(), v.g).real,
    "glu": lambda v: F.glu(v.h),
    "softmin": lambda v: F.softmin(v.h, dim=1),
    "erf and lgamma": lambda v: v.h.erf() + (v.h.abs() + 1).lgamma(),
    "special functions": lambda v: torch.special.i0(v.h) + torch.special.expit(v.h) + torch.sinc(v.h),
    "nan_to_num": lambda v: (v.h / v.h.detach().clamp(min=0)).nan_to_num(0.0, 0.0, 0.0),
    "comparisons": lambda v: (
        torch.isfinite(v.h) * v.h + (v.h > v.g).double() + torch.logical_xor(v.h > 0, v.g > 0)
    ),
    "integers": lambda v: (v.y.bitwise_and(1) + (v.y << 1) + v.y.floor_divide(2))[:, None] * v.h,
    "where with numbers": lambda v: torch.where(v.h > 0, v.h, 0.1) + torch.where(v.mask[:, None], 1.0, 0.0),
    "deg2rad, frac, trunc": lambda v: torch.deg2rad(v.h) + v.h.frac() + v.h.trunc() + v.h.round(decimals=1),
    "type_as and to": lambda v: v.y.type_as(v.h)[:, None] * v.h.to(torch.float64),
    "sgn, sign, square": lambda v: (
        v.h.sgn() + v.h.sign() + v.h.square() + v.h.positive() + v.h.reciprocal().sigmoid()
    ),
}


def _symmetric(h: Tensor) -> Tensor:
    """A matrix ``[rows, 2, 2]`` of numbers that differ from each other, symmetric and positive definite."""
    matrices = h[:, :4].view(-1, 2, 2)
    return matrices @ matrices.mT + torch.diag(torch.tensor([1.0, 2.0])).double()


OVER_FEATURES: dict[str, Expression] = {
    "sort": lambda v: v.h.sort(dim=1)[0],
    "argsort": lambda v: v.h.argsort(dim=1) * v.h,
    "stable sort": lambda v: v.h.sort(dim=1, stable=True, descending=True)[0],
    "topk": lambda v: v.h.topk(2, dim=1)[0],
    "kthvalue": lambda v: v.h.kthvalue(2, dim=1)[0],
    "median": lambda v: v.h.median(dim=1)[0],
    "nanmedian": lambda v: v.h.nanmedian(dim=1)[0],
    "mode": lambda v: v.h.round().mode(dim=1)[0],
    "cumsum and cumprod": lambda v: v.h.cumsum(1) + v.h.cumprod(1),
    "cummax": lambda v: v.h.cummax(1)[0],
    "logcumsumexp": lambda v: v.h.logcumsumexp(1),
    "logsumexp": lambda v: v.h.logsumexp(1),
    "diff": lambda v: v.h.diff(dim=1),
    "var and mean": lambda v: torch.stack(torch.var_mean(v.h, dim=1)).t(),
    "aminmax": lambda v: torch.stack(list(torch.aminmax(v.h, dim=1))).t(),
    "max and min": lambda v: v.h.max(1)[0] - v.h.min(1)[0] + v.h.amax(1),
    "prod": lambda v: v.h.prod(1),
    "count_nonzero": lambda v: v.h.count_nonzero(1)[:, None] * v.h,
    "any and all": lambda v: (v.h > 0).any(1)[:, None] * v.h + (v.h > -9).all(1)[:, None],
    "nanmean": lambda v: v.h.nanmean(1) + v.h.nansum(1),
    "softmax in another dtype": lambda v: v.h.softmax(1, dtype=torch.float64),
    "cdist within rows": lambda v: torch.cdist(v.h.view(-1, 3, 2), v.g.view(-1, 3, 2)).flatten(1),
    "trapezoid": lambda v: torch.trapezoid(v.h, dim=1),
    "renormalised": lambda v: v.h / v.h.abs().sum(1, keepdim=True).clamp_min(1e-3),
    "argmax": lambda v: v.h.argmax(1)[:, None] * v.h,
    "std": lambda v: v.h.std(1),
    "a linear system per row": lambda v: (
        torch.linalg.inv(_symmetric(v.h) + 3 * torch.eye(2).double()) @ v.g[:, :2, None]
        + torch.eye(2, 3).sum()
    ),
    "eigenvalues and singular values per row": lambda v: (
        torch.linalg.eigvalsh(_symmetric(v.h))
        + torch.linalg.eigh(_symmetric(v.g))[0]
        + torch.linalg.svdvals(_symmetric(v.h))
    ),
    "determinant per row": lambda v: torch.linalg.det(v.h[:, :4].view(-1, 2, 2)),
}

FAMILIES = {
    "products": PRODUCTS,
    "norms": NORMS,
    "cells": CELLS,
    "losses": LOSSES,
    "writes": WRITES,
    "reads": READS,
    "shapes": SHAPES,
    "pointwise": POINTWISE,
    "over features": OVER_FEATURES,
}


class Bundle(nn.Module):
    """Several expressions over the same graph."""

    def __init__(self, expressions: list[Expression]) -> None:
        super().__init__()
        self.expressions = expressions
        self.lin, self.other = nn.Linear(5, 6), nn.Linear(5, 6)
        self.w = nn.Parameter(torch.linspace(-1, 1, 6))
        self.table = nn.Parameter(torch.linspace(-1, 1, 24).view(6, 4))
        self.layers = nn.ModuleDict(
            {
                "gru_cell": nn.GRUCell(6, 6),
                "lstm_cell": nn.LSTMCell(6, 6),
                "rnn_cell": nn.RNNCell(6, 6),
                "lstm": nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
                "lstm_time": nn.LSTM(3, 4),
                "gru": nn.GRU(3, 4, batch_first=True),
                "rnn": nn.RNN(3, 4, batch_first=True),
                "conv": nn.Conv1d(2, 3, 2),
            }
        )

    def forward(
        self, x: Tensor, edge_index: Tensor, z: Tensor, y: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        src, dst = edge_index[0], edge_index[1]
        h, g = self.lin(x), self.other(x).sin()
        m = h[src] - g[dst]
        v = Values(h, g, m, x, z, y, mask, src, dst, self.w, self.table, self.layers)
        return tuple(expression(v) for expression in self.expressions)
