"""The graphs that the benchmarks run on: communities with degrees by a power law, a mesh, points with a radius."""

from __future__ import annotations

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


def mesh_graph(nodes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Triangles on a sheet of jittered points, ids in random order: int64 ``[2, E]``, positions float64 ``[N, 2]``.

    N is the largest square that ``nodes`` holds.
    """
    random = torch.Generator().manual_seed(seed)
    side = int(nodes**0.5)
    number = torch.arange(side * side).view(side, side)
    pairs = [
        torch.stack([number[:-1].flatten(), number[1:].flatten()]),
        torch.stack([number[:, :-1].flatten(), number[:, 1:].flatten()]),
        torch.stack([number[:-1, :-1].flatten(), number[1:, 1:].flatten()]),
    ]
    at = torch.stack([number.flatten() // side, number.flatten() % side], dim=1).double()
    at += torch.rand(at.shape, generator=random, dtype=torch.float64) * 0.6
    return _shuffled(torch.cat(pairs, dim=1), at, random)


def radius_graph(nodes: int, seed: int = 0, neighbours: int = 40) -> tuple[Tensor, Tensor]:
    """Points in a cube, each joined to all within a radius: int64 ``[2, E]``, positions float64 ``[N, 3]``.

    The radius is that of a ball which holds ``neighbours`` other points on average, away from the cube's faces.
    """
    random = torch.Generator().manual_seed(seed)
    at = torch.rand(nodes, 3, generator=random, dtype=torch.float64)
    radius = ((neighbours + 1) / (nodes * 4.18879)) ** (1 / 3)
    cells = max(int(1 / radius), 1)
    cell = (at * cells).long().clamp(max=cells - 1)
    key = (cell[:, 0] * cells + cell[:, 1]) * cells + cell[:, 2]
    order = key.argsort()
    starts = torch.searchsorted(key[order], torch.arange(cells**3 + 1))
    pairs = []
    for shift in torch.cartesian_prod(*[torch.arange(-1, 2)] * 3):
        other = cell + shift
        own = ((other >= 0) & (other < cells)).all(dim=1).nonzero().flatten()
        wanted = (other[own, 0] * cells + other[own, 1]) * cells + other[own, 2]
        sizes = starts[wanted + 1] - starts[wanted]
        left = own.repeat_interleave(sizes)
        place = torch.arange(left.numel()) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        right = order[starts[wanted].repeat_interleave(sizes) + place]
        near = (left < right) & ((at[left] - at[right]).square().sum(1) <= radius * radius)
        pairs.append(torch.stack([left[near], right[near]]))
    return _shuffled(torch.cat(pairs, dim=1), at, random)


def _shuffled(pairs: Tensor, at: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both directions of each pair in random order, nodes under random numbers."""
    ids = torch.randperm(len(at), generator=random)
    both = ids[torch.cat([pairs, pairs.flip(0)], dim=1)]
    positions = torch.empty_like(at)
    positions[ids] = at
    return both[:, torch.randperm(both.size(1), generator=random)], positions
