"""The partition's id: a digest of all that decides the shards."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphshard.graph.data import GraphData
from graphshard.ranks.checksums import digest_of


def identity_of(graph: GraphData, assignments: Mapping[str, Tensor], parts: int) -> str:
    """Ranks that cut the same data alike on their own find the same."""
    return digest_of([(about(graph, parts), torch.empty(0)), *assignments.items(), *graph.tensors.items()])


def about(graph: GraphData, parts: int) -> str:
    """What is no tensor: the number of parts, the sets, and the roles."""
    kinds = [(name, str(member), graph.paths.get(name)) for name, member in graph.members.items()]
    return repr((parts, graph.node_counts, graph.schema, graph.positional, kinds))
