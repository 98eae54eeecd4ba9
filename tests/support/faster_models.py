"""Forwards of the tests of passes that make a program faster: one thing each."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
    """A neighbour sum with weights, between two layers."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    return self.out(h.new_zeros(h.size(0), 6).index_add(0, dst, h[src] * edge_weight[:, None]))


def mean(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A mean over neighbours, by a sum and a count."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    count = h.new_zeros(h.size(0)).index_add(0, dst, h.new_ones(src.size(0))).clamp(min=1)
    return self.out(h.new_zeros(h.size(0), 6).index_add(0, dst, h[src]) / count[:, None])


def attention(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Two heads, as GATConv writes it."""
    src, dst = edge_index
    h = self.lin(x).tanh().view(-1, 2, 3)
    score = h.sum(-1)
    s = score[src] + score[dst]
    spread = dst[:, None].expand(-1, 2)
    top = s.new_zeros(x.size(0), 2).scatter_reduce(0, spread, s.detach(), "amax", include_self=False)
    p = (s - top[dst]).exp()
    share = p / (p.new_zeros(x.size(0), 2).index_add(0, dst, p) + 1e-16)[dst]
    return h.new_zeros(x.size(0), 2, 3).index_add(0, dst, h[src] * share[..., None])


def compared(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Dot products along edges, a maximum and a mean of what they scale."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    near = (h[dst] * h[src]).sum(-1)
    message = h[src] * near.tanh()[:, None]
    zeros, spread = h.new_zeros(h.size(0), 6), dst[:, None].expand(-1, 6)
    top = zeros.scatter_reduce(0, spread, h[src], "amax", include_self=False)
    low = zeros.scatter_reduce(0, spread, message + 1, "amin", include_self=False)
    return top + low + zeros.scatter_reduce(0, spread, message.exp(), "mean", include_self=False)


def by_source(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A sum to the source of each edge."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    return h.new_zeros(h.size(0), 6).index_add(0, src, h[dst])


def edges_out(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    """A score for each edge is returned: the edges must keep their order."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    score = (h[dst] * h[src]).sum(-1)
    return h.new_zeros(h.size(0), 6).index_add(0, dst, h[src] * score[:, None]), score


def learned_edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Which edges there are is decided in every step: nothing is known beforehand."""
    h = self.lin(x).tanh()
    keep = h[edge_index[1], 0] > 0
    src, dst = edge_index[:, keep]
    return h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])


def fixed_features(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A product of features that never change, then a neighbour sum (GCNConv)."""
    src, dst = edge_index
    h = x @ self.lin.weight.t()
    return h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])


def shrinking(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A neighbour sum, then a layer that makes rows shorter (SAGEConv)."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    total = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])
    return self.out(total)


def projected(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A projection of the heads of a product (the attention of GATConv)."""
    h = torch.nn.functional.linear(x.tanh(), self.lin.weight).view(-1, 2, 3)
    return (h * self.weight.view(1, 2, 3)).sum(dim=-1)


def two_values(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Two values at the sources of edges, at once, then a third that depends on them."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    a, b = h.cumsum(1), h.cumsum(1).flip(1).exp()
    pairs = a[src] * b[src].sum(1, keepdim=True)
    total = h.new_zeros(h.size(0), 6).index_add(0, dst, pairs).softmax(1)
    return total.new_zeros(h.size(0), 6).index_add(0, dst, total[src].exp())


def sums(self, x: Tensor) -> Tensor:
    """Two layers added up and rectified."""
    return (self.lin(x) + torch.nn.functional.linear(x, self.lin.weight)).relu() + 1


def rooted(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A sum over neighbours and the own row, each through a layer that makes rows shorter (SAGEConv)."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    h = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src]).tanh()
    total = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])
    return self.out(total) + torch.nn.functional.linear(h, self.out.weight * 2)


def rooted_square(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """As wide as before: the sum stays before its layer."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    square = self.lin.weight @ self.lin.weight.t()
    total = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])
    own = torch.nn.functional.linear(h, square * 2, self.lin.bias)
    return own + torch.nn.functional.linear(total, square)
