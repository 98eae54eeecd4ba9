"""Assignment of nodes to parts -> local numbers, halo plans, and the rows that each shard holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphshard.graph.data import GraphData
from graphshard.graph.roles import Member, Role
from graphshard.graph.schema import EdgeSet
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.shard import Shard

_AT_ONCE = 1 << 22  # edges that are looked at together: beside the result few bytes an edge are held


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
        edges: of each edge set, the positions of each part's edges, ascending; int32 where they fit.
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
    narrow = {name: narrowed(assignment, num_parts) for name, assignment in assignments.items()}
    edges = {
        e.name: _edges_of_parts(indices[e.name][1], narrow[e.destination], num_parts)
        for e in graph.schema.edges
    }
    nodes = {}
    for name in graph.schema.nodes:
        assignment = assignments[name]
        owned = group(narrow[name], num_parts)
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
                narrow[name],
                owned,
            )
            for plan in graph.schema.plans(name)
        }
        nodes[name] = NodeNumbering(owned, local, assignment, plans)
    return Numbering(nodes, edges)


def _number_halo(
    reading: list[tuple[Tensor, tuple[Tensor, ...]]], assignment: Tensor, owned: tuple[Tensor, ...]
) -> HaloNumbering:
    """The foreign sources of each part's edges; ``reading``: sources and positions of the sets of a plan."""
    halos, splits = [], []
    for rank, own in enumerate(owned):
        read = torch.zeros(assignment.numel(), dtype=torch.bool)
        for index, positions in reading:
            for some in positions[rank].split(_AT_ONCE):  # type: ignore[no-untyped-call]
                read[index[some.long()]] = True
        halo, received = halo_of(read, own, assignment, len(owned))
        halos.append(halo)
        splits.append(received)
    return HaloNumbering(tuple(halos), tuple(splits))


def halo_of(
    read: Tensor, owned: Tensor, assignment: Tensor, num_parts: int
) -> tuple[Tensor, tuple[int, ...]]:
    """A part's halo in its order, int64 ``[h]``, and how many of these nodes each part owns.

    Args:
        read: bool ``[N]``, the nodes that edges of the part read; its own ones are taken out of it.
        owned: int64 ``[n]``, its own nodes. assignment: ``[N]``, the part of each node.
        num_parts: number of parts.
    """
    read[owned] = False
    halo = read.nonzero().flatten()
    owner = assignment[halo]
    order = torch.from_numpy(np.argsort(owner.numpy(), kind="stable"))
    return halo[order], tuple(torch.bincount(owner, minlength=num_parts).tolist())


def group(part: Tensor, num_parts: int) -> tuple[Tensor, ...]:
    """Positions of each part's entries, ascending, int64; ``part``: of few bits, as NumPy sorts these by counting."""
    counts = torch.bincount(part, minlength=num_parts)
    bounds = counts.cumsum(0)[:-1].tolist()
    return tuple(torch.from_numpy(np.argsort(part.numpy(), kind="stable")).tensor_split(bounds))


def _edges_of_parts(destinations: Tensor, assignment: Tensor, num_parts: int) -> tuple[Tensor, ...]:
    """Positions of each part's edges, ascending."""
    found: list[list[Tensor]] = [[] for _ in range(num_parts)]
    for first, some in _pieces(destinations):
        for part, positions in enumerate(group(assignment[some], num_parts)):
            # A copy: a view would hold the positions of all parts.
            found[part].append((positions + first).to(_position_dtype(destinations.numel())))
    joined = []
    while found:
        joined.append(torch.cat(found.pop(0)))
    return tuple(joined)


def _pieces(numbers: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Some numbers at a time, and the position of the first of them; at least one piece."""
    for first in range(0, max(numbers.numel(), 1), _AT_ONCE):
        yield first, numbers[first : first + _AT_ONCE]


def _position_dtype(count: int) -> torch.dtype:
    return torch.int32 if count < 1 << 31 else torch.int64


def narrowed(assignment: Tensor, num_parts: int) -> Tensor:
    """Part ids in few bits: they are looked up for every edge, and sorted."""
    if num_parts <= 1 << 8:
        return assignment.to(torch.uint8)
    return assignment.to(torch.int16 if num_parts < 1 << 15 else torch.int32)


def build_shard(graph: GraphData, numbering: Numbering, rank: int) -> Shard:
    """Rank's part of the graph, its tensors on their own devices."""
    edge_ids = {name: positions[rank].long() for name, positions in numbering.edges.items()}
    cut = _Cut(graph, numbering, edge_ids, rank)
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
            e.name: EdgeShard(e, graph.edges(e.name).size(1), edge_ids[e.name]) for e in graph.schema.edges
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

    def __init__(
        self, graph: GraphData, numbering: Numbering, edge_ids: Mapping[str, Tensor], rank: int
    ) -> None:
        self.schema, self.numbering, self.edge_ids, self.rank = graph.schema, numbering, edge_ids, rank
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
        edges = self.edge_ids[member.of].to(value.device)
        if member.role is Role.EDGE:
            return value[edges]
        if member.role is Role.INDEX:
            own = self.schema.edge_set(member.of).source
            return self.numbering.nodes[own].local.to(value.device)[value[edges]]
        return self._take_index(value, edges, self.schema.edge_set(member.of))

    def _take_index(self, value: Tensor, edges: Tensor, edge_set: EdgeSet) -> Tensor:
        source = self.local(edge_set.source, edge_set.plan).to(value.device)
        destination = self.numbering.nodes[edge_set.destination].local.to(value.device)
        found = value.new_empty((2, edges.numel()))
        for first, some in _pieces(edges):
            last = first + some.numel()
            found[0, first:last] = source[value[0, some]]
            found[1, first:last] = destination[value[1, some]]
        return found

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
