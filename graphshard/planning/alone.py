"""A part of a graph that is its own neighbour: its halo rows come from its own rows.

One process then does what a rank does in a step, on as many nodes, halo rows and edges, without the other ranks. A part
that is too large to try is made smaller by a stride: every q-th node and the edges that end there, whose sources are
numbered closer together, so that degrees and the shares of halo rows and edges stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphshard.capture.examples import TensorSpec
from graphshard.errors import DataError
from graphshard.graph.roles import Member, Role
from graphshard.graph.schema import MESSAGES, EdgeSet
from graphshard.ranks.memory import return_mapped_pages
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.shard import Shard


@dataclass(frozen=True)
class Nodes:
    """Of one node set: how many a rank would own in a mean part, and owned and halo rows of each plan."""

    mean: int
    owned: int
    halo: dict[str, int]


@dataclass(frozen=True)
class Alone:
    """A part in a file, from which its tensors are mapped as those of a shard are. Picklable.

    Attributes:
        file: with tensors, and the ids of edges.
        nodes: of each node set. edges: each edge set. members, positional, paths: as of a ``Shard``.
        scale: its edges over those of the part that it was made from.
    """

    file: str
    nodes: dict[str, Nodes]
    edges: dict[str, EdgeSet]
    members: dict[str, Member]
    positional: bool
    paths: dict[str, Any]
    scale: float = 1.0

    def load(self) -> Shard:
        """The one shard of a group of one rank."""
        found = load_file(self.file)
        node_sets = {name: _node_shard(nodes) for name, nodes in self.nodes.items()}
        ids = {name: found.pop(f"ids.{name}") for name in self.edges}
        return_mapped_pages(ids.values())  # as of a shard that is loaded
        edge_sets = {name: EdgeShard(e, ids[name].numel(), ids[name]) for name, e in self.edges.items()}
        tensors = {name: found[f"tensor.{name}"] for name in self.members}
        return Shard(
            0, 1, node_sets, edge_sets, tensors, dict(self.members), self.positional, dict(self.paths)
        )


def _node_shard(nodes: Nodes) -> NodeShard:
    plans, ids = {}, {}
    for name, halo in nodes.halo.items():
        sent = torch.arange(halo) * nodes.owned // max(halo, 1)  # spread over the rows, as a halo's are
        plans[name] = HaloPlan(nodes.owned, halo, sent, (halo,), (halo,))
        ids[name] = torch.arange(nodes.owned + halo)
    return NodeShard(nodes.mean, plans, ids)


def alone(shard: Shard, stride: int, file: Path) -> Alone:
    """Write a part, or every ``stride``-th node of it with its edges, so that it needs no other.

    Args:
        shard: a rank's. stride: 1 for all of it. file: which is written.

    Raises:
        DataError: the graph is a sparse adjacency.
    """
    kept = {
        name: (torch.arange(e.edge_ids.numel()) if stride == 1 else _kept(shard, name, stride))
        for name, e in shard.edge_sets.items()
    }
    nodes = {name: _thinned(shard.node_sets[name], shard.world_size, stride) for name in shard.node_sets}
    tensors = {f"ids.{name}": torch.arange(positions.numel()) for name, positions in kept.items()}
    for name, value in shard.parts().items():
        tensors[f"tensor.{name}"] = _taken(shard, shard.members[name], value, kept, nodes, stride)
    save_file({name: value.cpu().clone().contiguous() for name, value in tensors.items()}, file)
    edges = sum(e.edge_ids.numel() for e in shard.edge_sets.values())
    return Alone(
        file=str(file),
        nodes=nodes,
        edges={name: e.edge_set for name, e in shard.edge_sets.items()},
        members=dict(shard.members),
        positional=shard.positional,
        paths=dict(shard.paths),
        scale=sum(map(len, kept.values())) / max(edges, 1),
    )


def _kept(shard: Shard, edge_set: str, stride: int) -> Tensor:
    """Positions of the edges that end in every ``stride``-th node; of what has no index, every ``stride``-th."""
    for name, member in shard.members.items():
        if member.of == edge_set and (member.role.is_index or member.role is Role.INDEX):
            ends = shard.parts()[name]
            return (ends[-1 if ends.dim() == 2 else slice(None)] % stride == 0).nonzero().flatten()
    return torch.arange(0, shard.edge_sets[edge_set].edge_ids.numel(), stride)


def _thinned(nodes: NodeShard, parts: int, stride: int) -> Nodes:
    halo = {name: -(-plan.num_halo // stride) for name, plan in nodes.plans.items()}
    return Nodes(max(1, nodes.num_nodes // parts), -(-nodes.num_owned // stride), halo)


def _taken(
    shard: Shard, member: Member, value: Tensor, kept: dict[str, Tensor], nodes: dict[str, Nodes], stride: int
) -> Tensor:
    """The rows of a tensor that stay; numbers of nodes become those of the nodes that stay."""
    if member.role is Role.ADJACENCY:
        raise DataError("plan() takes edges as an edge_index, not as a sparse adjacency")
    if member.role is Role.REPLICATED or stride == 1:
        return value
    if member.role is Role.NODE:
        return value[::stride]
    if member.role is Role.EDGE:
        return value[kept[member.of]]
    if member.role is Role.INDEX:
        return value[kept[member.of]] // stride
    edges = shard.edge_sets[member.of].edge_set
    whole = shard.node_sets[edges.source].num_owned
    ends, own = value[:, kept[member.of]], nodes[edges.source]
    halo = max(own.halo[edges.plan], 1)
    source = torch.where(ends[0] < whole, ends[0] // stride, own.owned + (ends[0] - whole) // stride % halo)
    return torch.stack([source, ends[1] // stride])


def of_counts(
    specs: Mapping[str, TensorSpec], owned: int, halo: int, edges: int, mean: int, stride: int, file: Path
) -> Alone:
    """Write a part of a homogeneous graph of which only the counts are known: ends at random, numbers at random.

    Args:
        specs: what forward's arguments are. owned, halo, edges: of the part.
        mean: nodes that a mean part owns. stride, file: as for :func:`alone`.

    Raises:
        DataError: an argument has rows that the counts say nothing of.
    """
    random = torch.Generator().manual_seed(0)
    nodes = Nodes(mean, -(-owned // stride), {MESSAGES: -(-halo // stride)})
    count = -(-edges // stride)
    rows = {Role.NODE: (nodes.owned,), Role.EDGE: (count,), Role.REPLICATED: ()}
    tensors = {"ids.": torch.arange(count)}
    for name, spec in specs.items():
        if spec.role is Role.EDGE_INDEX:
            ends = nodes.owned + nodes.halo[MESSAGES], nodes.owned
            pair = [torch.randint(max(end, 1), (count,), generator=random) for end in ends]
            tensors[f"tensor.{name}"] = torch.stack(pair)
        elif spec.role in rows:
            drawn = torch.rand((*rows[spec.role], *spec.trailing), generator=random)
            # Whole numbers are zeros: a class, a category.
            tensors[f"tensor.{name}"] = drawn.to(spec.dtype)
        else:
            raise DataError(
                f"the report of a partition does not say how many rows {name!r} ({spec.role.value}) has on a rank: "
                "give plan() the graph"
            )
    save_file(tensors, file)
    members = {name: Member(spec.role) for name, spec in specs.items()}
    return Alone(str(file), {"": nodes}, {"": EdgeSet()}, members, False, {}, count / max(edges, 1))
