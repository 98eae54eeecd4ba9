"""Random heterogeneous graphs, bipartite ones and links, with partitions that leave parts without some type."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.data import Data, HeteroData

WIDTHS = {"paper": 5, "author": 4, "venue": 3}
EDGE_TYPES = (
    ("author", "writes", "paper"),
    ("paper", "written_by", "author"),
    ("paper", "cites", "paper"),
    ("venue", "prints", "paper"),
    ("paper", "printed_in", "venue"),
)


@dataclass(repr=False)
class HeteroCase:
    """A graph of three node types and five edge types, and the part of each node."""

    data: HeteroData
    assignments: dict[str, Tensor]
    parts: int

    def __repr__(self) -> str:
        owners = {name: owner.tolist() for name, owner in self.assignments.items()}
        edges = {kind: self.data[kind].edge_index.tolist() for kind in self.data.edge_types}
        return f"HeteroCase(parts={self.parts}, {owners}, {edges})"


def make_hetero(counts: dict[str, int], edges: dict[tuple[str, str, str], int], seed: int) -> HeteroData:
    """Random features, labels and edges; self loops and parallel edges come by themselves."""
    random = torch.Generator().manual_seed(seed)
    data = HeteroData()
    for name, count in counts.items():
        data[name].x = torch.randn(count, WIDTHS[name], generator=random, dtype=torch.float64)
        data[name].y = torch.randint(3, (count,), generator=random)
    for kind, count in edges.items():
        ends = [torch.randint(counts[end], (count,), generator=random) for end in (kind[0], kind[2])]
        data[kind].edge_index = torch.stack(ends)
        data[kind].edge_attr = torch.randn(count, 2, generator=random, dtype=torch.float64)
    return data


def fixed_hetero(seed: int = 0) -> HeteroData:
    return make_hetero({"paper": 13, "author": 9, "venue": 4}, dict.fromkeys(EDGE_TYPES, 22), seed)


def owners(data: HeteroData, parts: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {n: torch.randint(parts, (data[n].num_nodes,), generator=random) for n in data.node_types}


@st.composite
def hetero_cases(draw: st.DrawFn) -> HeteroCase:
    """Types of a single node, edge types without edges, ranks without a node of some type."""
    # PyTorch's batch norm wants two papers.
    counts = {name: draw(st.integers(2 if name == "paper" else 1, 14)) for name in WIDTHS}
    edges = {kind: draw(st.one_of(st.just(0), st.integers(1, 30))) for kind in EDGE_TYPES}
    data = make_hetero(counts, edges, draw(st.integers(0, 2**16)))
    parts = draw(st.integers(1, 4))
    assignments = owners(data, parts, draw(st.integers(0, 2**16)))
    for name in draw(st.sets(st.sampled_from(sorted(WIDTHS)))):
        assignments[name] = torch.full_like(assignments[name], draw(st.integers(0, parts - 1)))
    return HeteroCase(data, assignments, parts)


@dataclass(repr=False)
class LinkCase:
    """A homogeneous graph with positive and negative pairs to be scored, and the part of each node."""

    data: Data
    assignment: Tensor
    parts: int

    def __repr__(self) -> str:
        held = {
            name: self.data[name].tolist() for name in ("edge_index", "edge_label_index", "neg_edge_index")
        }
        return f"LinkCase(parts={self.parts}, {self.assignment.tolist()}, {held})"


def make_links(nodes: int, edges: int, pairs: int, negatives: int, seed: int) -> Data:
    random = torch.Generator().manual_seed(seed)
    ends = [torch.randint(nodes, (2, count), generator=random) for count in (edges, pairs, negatives)]
    return Data(
        x=torch.randn(nodes, 5, generator=random, dtype=torch.float64),
        edge_index=ends[0],
        edge_label_index=ends[1],
        edge_label=torch.rand(pairs, generator=random).gt(0.5).double(),
        neg_edge_index=ends[2],
    )


@st.composite
def link_cases(draw: st.DrawFn) -> LinkCase:
    """No pairs at all, pairs with both ends on one rank, pairs whose ends no edge joins."""
    nodes, parts = draw(st.integers(3, 24)), draw(st.integers(1, 4))
    counts = [draw(st.sampled_from(choice)) for choice in ((0, 31, 60), (1, 33), (0, 35))]
    data = make_links(nodes, *counts, draw(st.integers(0, 2**16)))  # type: ignore[call-arg]
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    assignment = torch.randint(parts, (nodes,), generator=random)
    if draw(st.booleans()):
        assignment = assignment.clamp(max=max(parts - 2, 0))
    return LinkCase(data, assignment, parts)
