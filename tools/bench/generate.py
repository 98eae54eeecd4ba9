"""The graph that the benchmarks run on: nodes in communities, degrees by a power law, ids in random order.

Two others beside it have no hubs: a mesh, and points in space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """What the graph is like.

    Attributes:
        nodes: N.
        edges: directed edges, about; every one has its reverse.
        community: nodes in each community.
        outside: share of the edges whose far end is drawn from all nodes.
        exponent: of the power law that a node's expected degree follows.
        largest: the largest expected degree over the smallest.
    """

    nodes: int = 100_000
    edges: int = 2_000_000
    community: int = 500
    outside: float = 0.16
    exponent: float = 2.2
    largest: float = 300.0


def power_law_graph(shape: Shape, seed: int = 0) -> Tensor:
    """A symmetric graph without self loops and parallel edges: int64 ``[2, E]``, E at most ``shape.edges``.

    Both ends of an edge are drawn in proportion to weights ``u ** (-1 / (exponent - 1))``, u uniform: the model of
    Chung and Lu (Annals of Combinatorics 6, 2002), within and between communities.
    """
    n = shape.nodes
    random = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, generator=random, dtype=torch.float64).clamp(min=1e-12)
    weight = uniform.pow(-1 / (shape.exponent - 1)).clamp(max=shape.largest)
    upto = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
    pairs = torch.empty(0, dtype=torch.int64)
    wanted = min(shape.edges // 2, n * (n - 1) // 4)
    for _ in range(50):  # draws that repeat a pair are drawn again
        missing = wanted - pairs.numel()
        if missing <= 0:
            break
        drawn = _pairs(upto, shape, missing + missing // 8 + 8, random)
        pairs = torch.unique(torch.cat([pairs, drawn]))
    if pairs.numel() > wanted:
        pairs = pairs[torch.randperm(pairs.numel(), generator=random)[:wanted]]
    ids = torch.randperm(n, generator=random)
    a, b = ids[pairs // n], ids[pairs % n]
    both = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
    return both[:, torch.randperm(both.size(1), generator=random)]


def _pairs(upto: Tensor, shape: Shape, count: int, random: torch.Generator) -> Tensor:
    """Pairs ``smaller * nodes + larger``, some of them twice."""
    n, total = shape.nodes, float(upto[-1])
    source = _draw(upto, torch.rand(count, generator=random, dtype=torch.float64) * total)
    first = source // shape.community * shape.community
    low, high = upto[first], upto[(first + shape.community).clamp(max=n)]
    far = torch.rand(count, generator=random) < shape.outside
    low, high = low.masked_fill(far, 0.0), high.masked_fill(far, total)
    other = _draw(upto, low + torch.rand(count, generator=random, dtype=torch.float64) * (high - low))
    keep = source != other
    source, other = source[keep], other[keep]
    return torch.minimum(source, other) * n + torch.maximum(source, other)


def _draw(upto: Tensor, at: Tensor) -> Tensor:
    return (torch.searchsorted(upto, at, right=True) - 1).clamp(0, upto.numel() - 2)


def mesh_graph(width: int, height: int) -> Tensor:
    """A mesh of squares, each node beside the four next to it, both directions: int64 ``[2, E]``."""
    at = torch.arange(width * height).view(height, width)
    pairs = [torch.stack([a.flatten(), b.flatten()]) for a, b in ((at[:, :-1], at[:, 1:]), (at[:-1], at[1:]))]
    one_way = torch.cat(pairs, 1)
    return torch.cat([one_way, one_way.flip(0)], 1)


def radius_graph(nodes: int, neighbours: float, seed: int = 0) -> Tensor:
    """Points at random in a cube, each beside all within one distance, both directions: int64 ``[2, E]``.

    Args:
        nodes: how many points.
        neighbours: how many others a point has within that distance, on average and away from the sides.
        seed: of the points.
    """
    from scipy.spatial import cKDTree

    points = torch.rand(nodes, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = (neighbours / nodes * 3 / 4 / math.pi) ** (1 / 3)
    pairs = torch.from_numpy(cKDTree(points.numpy()).query_pairs(radius, output_type="ndarray")).t()
    return torch.cat([pairs, pairs.flip(0)], 1)
