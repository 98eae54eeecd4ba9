"""Broken ops: each takes the place of one that communicates, and leaves a program that runs and is wrong.

For planted faults (``graphshard.check.faults``): a check that passes must be able to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphshard.kernels.structure import PADDING
from graphshard.ops import exchange
from graphshard.ops.aggregation import weighted_sum
from graphshard.ops.local import pad_halo
from graphshard.ops.overlap import Parts, overlapped_sum
from graphshard.ops.preaggregation import Preaggregation, Product, Way, preaggregation
from graphshard.ops.stack import stack_ranks
from graphshard.ops.streamed import streamed_sum
from graphshard.ranks.groups import group_rank, group_size


def sync_nothing(x: Tensor, _index: Tensor, _send: Sequence[int], recv: Sequence[int], _group: str) -> Tensor:
    """A halo sync that leaves zeros in the halo."""
    padded: Tensor = pad_halo(x, recv, 0)
    return padded


def sync_forward_only(
    x: Tensor, index: Tensor, send: Sequence[int], recv: Sequence[int], group: str
) -> Tensor:
    """A halo sync whose halo rows send no gradient home."""
    synced: Tensor = exchange.halo_sync(x.detach(), index, list(send), list(recv), group)
    return torch.cat([x, synced[x.size(0) :]])


def reduce_nothing(x: Tensor, _index: Tensor, _send: Sequence[int], recv: Sequence[int], *_: str) -> Tensor:
    """A halo reduce that keeps the owner's own term."""
    return x[: x.size(0) - sum(recv)]


def reduce_forward_only(
    x: Tensor, index: Tensor, send: Sequence[int], recv: Sequence[int], *rest: str
) -> Tensor:
    """A halo reduce that gives the terms of other ranks no gradient."""
    own = reduce_nothing(x, index, send, recv)
    total: Tensor = exchange.halo_reduce(x.detach(), index, list(send), list(recv), *rest)
    return own + (total - own.detach())


def all_reduce_nothing(x: Tensor, _reduce: str, _group: str) -> Tensor:
    """An all-reduce that keeps this rank's own term."""
    return x.clone()


def all_reduce_forward_only(x: Tensor, reduce: str, group: str) -> Tensor:
    """An all-reduce whose backward does not sum over the ranks."""
    total: Tensor = exchange.all_reduce(x.detach(), reduce, group)
    return x + (total - x.detach())


def stack_nothing(x: Tensor, _group: str) -> Tensor:
    """A stack of this rank's own value alone."""
    return x.unsqueeze(0)


def stack_forward_only(x: Tensor, group: str) -> Tensor:
    """A stack whose backward does not sum over the ranks."""
    own = torch.arange(group_size(group)) == group_rank(group)
    own = own.to(x.device).view(-1, *[1] * x.dim())
    stacked: Tensor = stack_ranks(x.detach(), group)
    return torch.where(own, x.unsqueeze(0), stacked)


def merged_nothing(values: Sequence[Tensor], *plan: Any, **_wire: Any) -> tuple[Tensor, ...]:
    """A merged sync that leaves zeros in every halo."""
    return tuple(sync_nothing(x, *plan) for x in values)


def merged_forward_only(values: Sequence[Tensor], *plan: Any, **_wire: Any) -> tuple[Tensor, ...]:
    """A merged sync whose halo rows send no gradient home."""
    return tuple(sync_forward_only(x, *plan) for x in values)


def overlap_nothing(x: Tensor, weight: Tensor | None, tensors: Sequence[Tensor], *_plan: Any) -> Tensor:
    """An overlapped sum over the edges from owned nodes alone."""
    parts = Parts.of(tensors)
    out: Tensor = weighted_sum(x, None if weight is None else weight[parts.own_edges], parts.own)
    return out


def overlap_forward_only(x: Tensor, weight: Tensor | None, tensors: Sequence[Tensor], *plan: Any) -> Tensor:
    """An overlapped sum whose halo rows send no gradient home."""
    own = overlap_nothing(x, weight, tensors)
    whole: Tensor = overlapped_sum(x.detach(), None if weight is None else weight.detach(), tensors, *plan)
    return own + (whole - own.detach())


def stream_nothing(
    x: Tensor, weight: Tensor | None, scale: Tensor | None, structure: Sequence[Tensor], *rest: Any
) -> Tensor:
    """A streamed sum over the edges from owned nodes alone."""
    if Preaggregation.is_one(structure):
        out: Tensor = streamed_sum(x, weight, scale, _of_own_rows(structure), *rest)
        return out
    return _summed(sync_nothing, x, weight, scale, structure, *rest)


def stream_forward_only(
    x: Tensor, weight: Tensor | None, scale: Tensor | None, structure: Sequence[Tensor], *rest: Any
) -> Tensor:
    """A streamed sum whose halo rows send no gradient home."""
    if Preaggregation.is_one(structure):
        own = stream_nothing(x, weight, scale, structure, *rest)
        whole: Tensor = streamed_sum(x.detach(), weight, scale, structure, *rest)
        return own + (whole - own.detach())
    return _summed(sync_forward_only, x, weight, scale, structure, *rest)


def preaggregation_of_first_terms(*arguments: Any) -> list[Tensor]:
    """A preaggregation that leaves edges out: of a sum that another rank makes, all but the first one."""
    found = Preaggregation.of(preaggregation(*arguments))
    sent = found.forward.sent
    first = torch.zeros(sent.grouped.edges, dtype=torch.bool, device=sent.start.device)
    first[sent.start[:-1][sent.start.diff() > 0].long()] = True
    return found._replace(forward=found.forward._replace(sent=_only(sent, first))).tensors


def _of_own_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A preaggregation of which what comes of other ranks is not added."""
    found = Preaggregation.of(tensors)
    forward = _of_columns(found.forward, found.backward.sum.grouped.groups)
    backward = _of_columns(found.backward, found.forward.sum.grouped.groups)
    return Preaggregation(forward, backward, found.splits).tensors


def _of_columns(way: Way, own: int) -> Way:
    """A way whose sums are of its first columns."""
    return way._replace(sum=_only(way.sum, way.sum.other[: way.sum.grouped.edges] < own))


def _only(product: Product, kept: Tensor) -> Product:
    """Some terms of a sparse matrix."""
    upto = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
    other = torch.cat([product.other[: kept.numel()][kept], product.other.new_zeros(PADDING)])
    weights = product.weights if product.weight is None else product.weights[kept]
    return Product(upto[product.start.long()].to(product.start.dtype), other, weights)


def _summed(
    sync: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor | None,
    scale: Tensor | None,
    structure: Sequence[Tensor],
    *plan: Any,
) -> Tensor:
    """A streamed sum with another sync."""
    out: Tensor = weighted_sum(sync(x, *plan[:4]), weight, structure)
    return out if scale is None else out * scale.view(-1, *[1] * (out.dim() - 1))


def rooted_nothing(x: Tensor, weight: Tensor | None, scale: Tensor | None, *rest: Any) -> Tensor:
    """A rooted sum over the edges from owned nodes alone."""
    return _rooted(stream_nothing, x, weight, scale, *rest)


def rooted_forward_only(x: Tensor, weight: Tensor | None, scale: Tensor | None, *rest: Any) -> Tensor:
    """A rooted sum whose halo rows send no gradient home."""
    return _rooted(stream_forward_only, x, weight, scale, *rest)


def _rooted(summed: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """A rooted sum with another sum."""
    *of_sum, neighbour, root, bias, _ = rest
    return F.linear(summed(x, *of_sum), neighbour, bias) + F.linear(x, root)


def same_all(values: Sequence[Tensor], _group: str) -> tuple[Tensor, ...]:
    """No gradient sum of a bucket."""
    return tuple(x.view_as(x) for x in values)


def same(x: Tensor, _group: str) -> Tensor:
    """No gradient sum, or no scaling."""
    return x.view_as(x)
