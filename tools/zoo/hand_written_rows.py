"""Forms in plain torch over the rows of nodes: masks, reductions over all nodes, products of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphshard.tools.zoo.configuration import Configuration, model
from graphshard.tools.zoo.hand_written import scaled, written


def masks(m: Any, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    h = m.lin(x)
    above = h[h.mean(1) > h.mean()].sum(0)
    h = torch.where(mask[:, None], h, m.weight).clone()
    h[mask] = h[mask] * above.tanh()
    return h, h[mask].sum(0) / mask.sum().clamp(min=1)


def readouts(m: Any, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    h = m.lin(x)
    gated = (h - h.mean(0)) * h.sum(0, keepdim=True).tanh() + h.mean() / edge_index.size(1)
    return gated, (h * h).mean() + h.std() + h.var(0).sum()


def maxima(m: Any, x0: Tensor) -> tuple[Tensor, Tensor]:
    h = x0 * m.scale
    return h - h.amax(0), h.max() + h.amin(0).sum() + h.max(0).values.sum()


def other_reductions(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = m.lin(x)
    return h.logsumexp(0), h.softmax(0), (h * 0.5 + 1.5).prod(0)


def norms_of_columns(m: Any, x: Tensor) -> Any:
    h = m.lin(x)
    return h / h.norm(dim=0) + h.norm() + nn.functional.normalize(h, dim=1)


def gram(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.lin(x)
    return h @ (h.t() @ h) / x.size(0), torch.einsum("nf,nh->fh", x, h)


def sorted_features(m: Any, x: Tensor) -> Any:
    h = m.lin(x)
    return h.sort(1).values.cumsum(1) + h.topk(2, 1).values.sum(1, keepdim=True)


def top_nodes(m: Any, x: Tensor) -> Any:
    h = m.lin(x)
    return h[h[:, 0].topk(3).indices].sum(0)


def dense_attention(m: Any, x: Tensor) -> Any:
    h = m.lin(x)
    return torch.softmax(h @ h.t() / 2, 1) @ h


def linear_attention(m: Any, x: Tensor) -> Any:
    q, k = m.lin(x).softmax(1), m.lin(x).exp()
    return q @ (k.t() @ x) / (q @ k.sum(0)).unsqueeze(1)


def pairwise(m: Any, x: Tensor, pos: Tensor) -> Any:
    return torch.cdist(pos, pos).neg().exp() @ m.lin(x)


WRITTEN = (
    masks,
    readouts,
    other_reductions,
    norms_of_columns,
    gram,
    sorted_features,
    top_nodes,
    dense_attention,
    linear_attention,
    pairwise,
)

CONFIGURATIONS: list[Configuration] = [
    *(written(f.__name__.replace("_", " "), f) for f in WRITTEN),
    model("maxima", maxima, scaled),
]
