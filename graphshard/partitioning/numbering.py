"""Assignment of nodes to parts -> local numbers, halo plans, and the rows that each shard holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.graph.checks import sorted_unique
from graphshard.graph.data import GraphData
from graphshard.graph.roles import Member, Role
from graphshard.graph.schema import EdgeSet
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.shard import Shard


@dataclass(frozen=True)
class HaloNumbering:
    """The halo of one plan, of all parts.

    Attributes:
        halo: global ids of each part's halo, grouped by owner, ascending inside a group.
        recv_splits: how many of a part's halo nodes each rank owns.
    """

    halo: tuple[Tensor, ...]
    recv_splits: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class NodeNumbering:
    """Local numbers of one node set, of all parts.

    Attributes:
        owned: global ids of each part's nodes, ascending.
        local: int64 ``[N]``, a node's number in the part that owns it.
        assignment: int64 ``[N]``.
        plans: the halo of each plan.
    """

    owned: tuple[Tensor, ...]
    local: Tensor
    assignment: Tensor
    plans: dict[str, HaloNumbering]


@dataclass(frozen=True)
class Numbering:
    """Local numbers of all parts.

    Attributes:
        nodes: of each node set.
        edges: of each edge set, the positions of each part's edges, ascending.
    """

    nodes: dict[str, NodeNumbering]
    edges: dict[str, tuple[Tensor, ...]]


def number_nodes(graph: GraphData, assignments: Mapping[str, Tensor], num_parts: int) -> Numbering:
    """Decide every part's nodes, halos and edges.

    Args:
        graph: the whole graph.
        assignments: of each node set int64 ``[N]``, the part of each node, 0..num_parts-1.
        num_parts: number of parts; those that no node is assigned to are empty.
    """
    indices = {edge_set.name: graph.edges(edge_set.name).cpu() for edge_set in graph.schema.edges}
    narrow = {name: _narrow(assignment, num_parts) for name, assignment in assignments.items()}
    edges = {e.name: _group(narrow[e.destination][indices[e.name][1]], num_parts) for e in graph.schema.edges}
    nodes = {}
    for name in graph.schema.nodes:
        assignment = assignments[name]
        owned = _group(assignment, num_parts)
        local = torch.empty_like(assignment)
        for ids in owned:
            local[ids] = torch.arange(ids.numel())
        plans = {
            plan: _number_halo(
                [
                    (indices[e.name][0], edges[e.name])
                    for e in graph.schema.edges
                    if (e.source, e.plan) == (name, plan)
                ],
                assignment,
                num_parts,
            )
            for plan in graph.schema.plans(name)
        }
        nodes[name] = NodeNumbering(owned, local, assignment, plans)
    return Numbering(nodes, edges)


def _number_halo(
    reading: list[tuple[Tensor, tuple[Tensor, ...]]], assignment: Tensor, num_parts: int
) -> HaloNumbering:
    """The foreign sources of each part's edges; ``reading``: sources and positions of the sets of a plan."""
    halos, splits = [], []
    for rank in range(num_parts):
        sources = torch.cat([assignment[:0], *(index[positions[rank]] for index, positions in reading)])
        halo = sorted_unique(sources[assignment[sources] != rank])
        owner = assignment[halo]
        halos.append(halo[owner.argsort(stable=True)])
        splits.append(tuple(torch.bincount(owner, minlength=num_parts).tolist()))
    return HaloNumbering(tuple(halos), tuple(splits))


def _group(part: Tensor, num_parts: int) -> tuple[Tensor, ...]:
    """Positions of each part's entries, ascending."""
    counts = torch.bincount(part, minlength=num_parts)
    bounds = counts.cumsum(0)[:-1].tolist()
    return tuple(part.argsort(stable=True).tensor_split(bounds))


def _narrow(assignment: Tensor, num_parts: int) -> Tensor:
    """Part ids in few bits: they are looked up for every edge, and sorted."""
    return assignment.to(torch.int16 if num_parts < 1 << 15 else torch.int32)


def build_shard(graph: GraphData, numbering: Numbering, rank: int) -> Shard:
    """Rank's part of the graph, its tensors on their own devices."""
    cut = _Cut(graph, numbering, rank)
    return Shard(
        rank=rank,
        world_size=len(next(iter(numbering.nodes.values())).owned),
        node_sets={
            name: NodeShard(
                graph.node_counts[name],
                {plan: _halo_plan(nodes, plan, rank) for plan in nodes.plans},
                {p: torch.cat([nodes.owned[rank], halo.halo[rank]]) for p, halo in nodes.plans.items()},
            )
            for name, nodes in numbering.nodes.items()
        },
        edge_sets={
            e.name: EdgeShard(e, graph.edges(e.name).size(1), numbering.edges[e.name][rank])
            for e in graph.schema.edges
        },
        tensors={name: cut.take(value, graph.members[name]) for name, value in graph.tensors.items()},
        members={name: Member(m.role, m.of) for name, m in graph.members.items()},
        positional=graph.positional,
        paths=dict(graph.paths),
    )


def _halo_plan(nodes: NodeNumbering, plan: str, rank: int) -> HaloPlan:
    """Rank's owned rows in the order in which each other rank lists them in its halo."""
    numbers = nodes.plans[plan]
    sends = []
    for halo, splits in zip(numbers.halo, numbers.recv_splits, strict=True):
        start = sum(splits[:rank])
        sends.append(nodes.local[halo[start : start + splits[rank]]])
    return HaloPlan(
        num_owned=nodes.owned[rank].numel(),
        num_halo=numbers.halo[rank].numel(),
        send_index=torch.cat(sends),
        send_splits=tuple(ids.numel() for ids in sends),
        recv_splits=numbers.recv_splits[rank],
    )


class _Cut:
    """Cuts one part's rows out of whole tensors."""

    def __init__(self, graph: GraphData, numbering: Numbering, rank: int) -> None:
        self.schema, self.numbering, self.rank = graph.schema, numbering, rank
        self._local: dict[tuple[str, str], Tensor] = {}

    def local(self, nodes: str, plan: str) -> Tensor:
        """int64 ``[N]``, the local number of every node that an index of this plan can name."""
        if (nodes, plan) not in self._local:
            numbers = self.numbering.nodes[nodes]
            halo, owned = numbers.plans[plan].halo[self.rank], numbers.owned[self.rank]
            local = numbers.local.clone() if halo.numel() else numbers.local
            local[halo] = torch.arange(owned.numel(), owned.numel() + halo.numel())
            self._local[nodes, plan] = local
        return self._local[nodes, plan]

    def take(self, value: Tensor, member: Member) -> Tensor:
        """The part of a whole tensor that this rank holds."""
        value = value.detach()
        if member.role is Role.NODE:
            return value[self.numbering.nodes[member.of].owned[self.rank].to(value.device)]
        if member.role is Role.ADJACENCY:
            return self._take_adjacency(value)
        if member.role is Role.REPLICATED:
            return value
        edges = self.numbering.edges[member.of][self.rank].to(value.device)
        if member.role is Role.EDGE:
            return value[edges]
        if member.role is Role.INDEX:
            own = self.schema.edge_set(member.of).source
            return self.numbering.nodes[own].local.to(value.device)[value[edges]]
        return self._take_index(value[:, edges], self.schema.edge_set(member.of))

    def _take_index(self, own: Tensor, edge_set: EdgeSet) -> Tensor:
        source = self.local(edge_set.source, edge_set.plan).to(own.device)
        destination = self.numbering.nodes[edge_set.destination].local.to(own.device)
        return torch.stack([source[own[0]], destination[own[1]]])

    def _take_adjacency(self, value: Tensor) -> Tensor:
        nodes = self.numbering.nodes[""]
        mine = (nodes.assignment == self.rank).to(value.device)[value.indices()[0]].nonzero().flatten()
        local = self.local("", "").to(value.device)
        rows, columns = local[value.indices()[:, mine]]
        owned, halo = nodes.owned[self.rank].numel(), nodes.plans[""].halo[self.rank].numel()
        # Rows ascend and no entry repeats, which is what kernels rely on; sorting columns by local number
        # would change the order in which a row is summed.
        return torch.sparse_coo_tensor(
            torch.stack([rows, columns]),
            value.values()[mine],
            (owned, owned + halo),
            is_coalesced=True,
            check_invariants=False,
        )
