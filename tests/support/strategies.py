"""Hypothesis strategies: graphs and partitions of every awkward shape, and stacks of layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from graphshard.partitioning.metis import metis

FEATURES, EDGE_FEATURES, CLASSES = 5, 3, 3


def examples(count: int) -> settings:
    """That many cases, the same in every run; not shrunk, as each one runs several ranks."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


@dataclass(repr=False)
class Case:
    """A whole graph with all tensors that the tests' models take, and a partition of it."""

    tensors: dict[str, Tensor]
    assignment: Tensor
    parts: int

    def __repr__(self) -> str:
        edges = self.tensors["edge_index"].tolist()
        return f"Case(parts={self.parts}, assignment={self.assignment.tolist()}, edge_index={edges})"


def make_case(edge_index: Tensor, assignment: Tensor, parts: int, seed: int = 0, ties: bool = False) -> Case:
    """A case with features drawn from ``seed``; ``ties``: small integers, so that maxima tie."""
    nodes, edges = assignment.numel(), edge_index.size(1)
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        if ties:
            return torch.randint(-1, 2, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def integers(high: int, rows: int) -> Tensor:
        return torch.randint(0, high, (rows,), generator=generator)

    return Case(
        {
            "x": values(nodes, FEATURES),
            "edge_index": edge_index,
            "edge_weight": torch.rand(edges, generator=generator, dtype=torch.float64) + 0.1,
            "edge_attr": values(edges, EDGE_FEATURES),
            "z": integers(4, nodes),
            "y": integers(CLASSES, nodes),
            "target": torch.rand((nodes, CLASSES), generator=generator, dtype=torch.float64),
            "mask": integers(2, nodes).bool(),
            "mask2": integers(3, nodes).bool(),
            "edge_y": integers(CLASSES, edges),
            "scale": torch.rand(CLASSES, generator=generator, dtype=torch.float64) + 0.5,
        },
        assignment,
        parts,
    )


@st.composite
def edge_indices(draw: st.DrawFn, nodes: int) -> Tensor:
    """Directed, with self loops and parallel edges; hubs, isolated nodes, components; maybe no edge."""
    shape = draw(st.sampled_from(["random", "empty", "hub", "components", "loops", "parallel", "ring"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    edges = draw(st.integers(1, 4 * nodes))
    pairs = torch.randint(0, nodes, (2, edges), generator=generator)
    if shape == "empty":
        return pairs[:, :0]
    if shape == "hub":
        row = draw(st.integers(0, 1))
        pairs[row, : (edges + 1) // 2] = draw(st.integers(0, nodes - 1))
    elif shape == "components":
        pairs[1] = (pairs[1] // 3) * 3 % nodes
        pairs[0] = torch.where(pairs[0] // 3 == pairs[1] // 3, pairs[0], pairs[1])
    elif shape == "loops":
        pairs[0] = torch.where(torch.rand(edges, generator=generator) < 0.5, pairs[1], pairs[0])
    elif shape == "parallel":
        pairs = pairs[:, torch.randint(0, (edges + 1) // 2, (edges,), generator=generator)]
    elif shape == "ring":
        ring = torch.arange(nodes)
        pairs = torch.stack([ring, (ring + 1) % nodes])
    return pairs.contiguous()


@st.composite
def assignments(draw: st.DrawFn, edge_index: Tensor, nodes: int, parts: int) -> Tensor:
    """METIS, or arbitrary; parts may be empty."""
    kind = draw(st.sampled_from(["random", "metis", "one part", "blocks", "lonely"]))
    if kind == "metis":
        return metis(edge_index, nodes, parts)
    if kind == "one part":
        return torch.full((nodes,), draw(st.integers(0, parts - 1)))
    if kind == "blocks":
        return torch.arange(nodes) * parts // nodes
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    if kind == "lonely":
        parts_of = torch.zeros(nodes, dtype=torch.int64)
        parts_of[draw(st.integers(0, nodes - 1))] = parts - 1
        return parts_of
    return torch.randint(0, parts, (nodes,), generator=generator)


@st.composite
def cases(draw: st.DrawFn, max_nodes: int = 60, min_nodes: int = 1, min_edges: int = 0) -> Case:
    """Any graph and any partition of it, with more parts than nodes at times."""
    nodes = draw(st.one_of(st.integers(min_nodes, 8), st.integers(min_nodes, max_nodes)))
    edge_index = draw(edge_indices(nodes).filter(lambda e: e.size(1) >= min_edges))
    parts = draw(st.integers(1, 5))
    assignment = draw(assignments(edge_index, nodes, parts))
    return make_case(edge_index, assignment, parts, draw(st.integers(0, 2**16)), draw(st.booleans()))


def fixed_case(
    seed: int = 0, nodes: int = 24, edges: int = 90, parts: int = 3, *, ties: bool = False
) -> Case:
    """One ordinary case: self loops, parallel edges, an isolated node, an empty part when parts > 3."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, nodes - 1, (2, edges), generator=generator)
    pairs[:, 0] = 3
    pairs[:, 2] = pairs[:, 1]
    pairs[:, 3] = 3
    assignment = torch.randint(0, min(parts, 3), (nodes,), generator=generator)
    return make_case(pairs, assignment, parts, seed, ties)
