"""The graphs that the zoo runs on: random, cut in three parts, with every tensor that a model may take.

::

    0  random edges, self loops, parallel edges, an isolated node; nodes assigned at random
    1  small integers as features, so that maxima tie; one part without nodes, one without a halo
    2  hubs and METIS
    3, 4, ...  as 0, 1, 2 with other random numbers
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.graph.data import GraphData, as_graph_data
from graphshard.partitioning.metis import metis
from graphshard.partitioning.partition import ShardedGraph, partition
from graphshard.shard.shard import Shard
from graphshard.tools.zoo.configuration import CLASSES, EDGE_FEATURES, FEATURES, HIDDEN

NODES = 24
"""Nodes of every graph, for models that are made for a number of nodes."""

PARTS = 3
GRAPHS = 3
"""Graphs in a batch."""

RELATIONS = 3
"""Kinds of nodes and of edges."""

ROLES = {
    "edge_index": "edge_index",
    "adj": "adjacency",
    **dict.fromkeys(("edge_weight", "edge_attr", "edge_type", "edge_mask", "edge_y"), "edge"),
    **dict.fromkeys(
        ("x", "x0", "pos", "normal", "z", "y", "target", "mask", "batch", "node_type", "labels"), "node"
    ),
    **dict.fromkeys(("u",), "replicated"),
}
"""What each tensor is; a model's forward names the ones that it takes."""


@dataclass(frozen=True)
class Cut:
    """A graph, and who owns which node."""

    graph: GraphData
    assignment: Tensor

    def sharded(self) -> ShardedGraph:
        """The three parts, with a report."""
        return partition(self.graph, PARTS, method=self.assignment)

    def shards(self) -> list[Shard]:
        """The three parts."""
        return list(self.sharded())

    def whole(self) -> Shard:
        """The graph as a single part."""
        return partition(self.graph, 1, method=torch.zeros_like(self.assignment))[0]


def cut_graph(seed: int, names: Collection[str], *, edges: str = "any") -> Cut:
    """The graph of this number with the tensors of these names, floating ones in float64.

    A graph has one set of edges: its edge index, or the adjacency if ``names`` has that.
    """
    generator = torch.Generator().manual_seed(seed)
    nodes = NODES
    pairs, assignment = (_random, _lonely, _hubs)[seed % 3](nodes, generator)
    if edges == "four":
        starts = torch.randint(0, nodes, (4 * nodes,), generator=generator)
        pairs = torch.stack([starts, torch.arange(nodes).repeat_interleave(4)])
    if edges == "sorted":
        pairs = pairs[:, pairs[1].argsort(stable=True)]
    tensors = _tensors(nodes, pairs, generator, ties=seed % 3 == 1)
    graph = "adj" if "adj" in names else "edge_index"
    kept = {name: value for name, value in tensors.items() if name in names or name == graph}
    return Cut(as_graph_data(kept, {name: ROLES[name] for name in kept}, nodes), assignment)


def _random(nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The last node is isolated; two self loops of one node, and parallel edges."""
    pairs = torch.randint(0, nodes - 1, (2, 3 * nodes + 1), generator=generator)
    pairs[:, 0] = pairs[:, 3] = 3
    pairs[:, 2] = pairs[:, 1]
    return pairs, torch.randint(0, PARTS, (nodes,), generator=generator)


def _lonely(nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Part 1 has no nodes; no edge ends in part 2 that starts elsewhere, so it has no halo."""
    assignment = torch.arange(nodes) % 2 * 2
    pairs = torch.randint(0, nodes, (2, 4 * nodes), generator=generator)
    keep = (assignment[pairs[1]] == 0) | (assignment[pairs[0]] == 2)
    return pairs[:, keep], assignment


def _hubs(nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the edges start at node 0, a quarter end at node 1."""
    pairs = torch.randint(0, nodes, (2, 3 * nodes), generator=generator)
    pairs[0, ::2] = 0
    pairs[1, ::4] = 1
    return pairs, metis(pairs, nodes, PARTS)


def _tensors(nodes: int, pairs: Tensor, generator: torch.Generator, *, ties: bool) -> dict[str, Tensor]:
    edges = pairs.size(1)

    def values(*shape: int) -> Tensor:
        if ties:
            return torch.randint(-1, 2, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def positive(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1

    def integers(high: int, rows: int) -> Tensor:
        return torch.randint(0, high, (rows,), generator=generator)

    unique: Tensor = torch.unique(pairs, dim=1)
    weights = positive(unique.size(1))
    return {
        "x": values(nodes, FEATURES),
        "x0": values(nodes, HIDDEN),
        "pos": values(nodes, 3),
        "normal": values(nodes, 3),
        "edge_index": pairs,
        "edge_weight": positive(edges),
        "edge_attr": values(edges, EDGE_FEATURES),
        "edge_type": integers(RELATIONS, edges),
        "edge_mask": integers(3, edges).bool(),
        "edge_y": positive(edges).gt(0.6).double(),
        "node_type": integers(RELATIONS, nodes),
        "z": integers(4, nodes),
        "y": integers(CLASSES, nodes),
        "labels": torch.nn.functional.one_hot(integers(CLASSES, nodes), CLASSES).double(),
        "target": positive(nodes, CLASSES),
        "mask": integers(3, nodes).bool(),
        "batch": integers(GRAPHS, nodes).sort().values,
        "u": values(GRAPHS, HIDDEN),
        "adj": torch.sparse_coo_tensor(unique.flip(0), weights, (nodes, nodes)).coalesce(),
    }
