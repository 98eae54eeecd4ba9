"""Assignment of nodes to parts -> local numbers, halo plans, and the rows that each shard holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.graphdata import GraphData, sorted_unique
from graphshard.halo import HaloPlan
from graphshard.roles import Role
from graphshard.shard import Shard


@dataclass(frozen=True)
class Numbering:
    """Local numbers of all parts.

    Attributes:
        owned: global ids of each part's nodes, ascending.
        halo: global ids of each part's halo, grouped by owner, ascending inside a group.
        recv_splits: how many of a part's halo nodes each rank owns.
        edges: positions of each part's edges, ascending.
        local: int64 ``[N]``, a node's number in the part that owns it.
        assignment: int64 ``[N]``.
    """

    owned: tuple[Tensor, ...]
    halo: tuple[Tensor, ...]
    recv_splits: tuple[tuple[int, ...], ...]
    edges: tuple[Tensor, ...]
    local: Tensor
    assignment: Tensor


def number_nodes(edges: Tensor, assignment: Tensor, num_parts: int) -> Numbering:
    """Decide every part's nodes, halo and edges.

    Args:
        edges: int64 ``[2, E]``.
        assignment: int64 ``[N]``, the part of each node, 0..num_parts-1.
        num_parts: number of parts; those that no node is assigned to are empty.
    """
    owned = _group(assignment, num_parts)
    local = torch.empty_like(assignment)
    for ids in owned:
        local[ids] = torch.arange(ids.numel())
    own_edges = _group(assignment[edges[1]], num_parts)
    halos, splits = [], []
    for rank, positions in enumerate(own_edges):
        sources = edges[0, positions]
        halo = sorted_unique(sources[assignment[sources] != rank])
        owner = assignment[halo]
        halos.append(halo[owner.argsort(stable=True)])
        splits.append(tuple(torch.bincount(owner, minlength=num_parts).tolist()))
    return Numbering(owned, tuple(halos), tuple(splits), own_edges, local, assignment)


def _group(part: Tensor, num_parts: int) -> tuple[Tensor, ...]:
    """Positions of each part's entries, ascending."""
    counts = torch.bincount(part, minlength=num_parts)
    bounds = counts.cumsum(0)[:-1].tolist()
    return tuple(part.argsort(stable=True).tensor_split(bounds))


def build_shard(graph: GraphData, numbering: Numbering, rank: int) -> Shard:
    """Rank's part of the graph, its tensors on their own devices."""
    owned, halo = numbering.owned[rank], numbering.halo[rank]
    local = numbering.local.clone() if halo.numel() else numbering.local
    local[halo] = torch.arange(owned.numel(), owned.numel() + halo.numel())
    cut = _Cut(owned, numbering.edges[rank], local, halo.numel(), numbering.assignment == rank)
    return Shard(
        rank=rank,
        world_size=len(numbering.owned),
        num_nodes=graph.num_nodes,
        num_edges=graph.edges().size(1),
        halo=_halo_plan(numbering, rank),
        node_ids=torch.cat([owned, halo]),
        edge_ids=cut.edges,
        tensors={name: cut.take(value, graph.roles[name]) for name, value in graph.tensors.items()},
        roles=dict(graph.roles),
        positional=graph.positional,
    )


def _halo_plan(numbering: Numbering, rank: int) -> HaloPlan:
    """Rank's owned rows in the order in which each other rank lists them in its halo."""
    sends = []
    for halo, splits in zip(numbering.halo, numbering.recv_splits, strict=True):
        start = sum(splits[:rank])
        sends.append(numbering.local[halo[start : start + splits[rank]]])
    return HaloPlan(
        num_owned=numbering.owned[rank].numel(),
        num_halo=numbering.halo[rank].numel(),
        send_index=torch.cat(sends),
        send_splits=tuple(ids.numel() for ids in sends),
        recv_splits=numbering.recv_splits[rank],
    )


@dataclass(frozen=True)
class _Cut:
    """One part's nodes, edges, and ``local`` numbers of every node that it can name."""

    owned: Tensor
    edges: Tensor
    local: Tensor
    num_halo: int
    is_owned: Tensor

    def take(self, value: Tensor, role: Role) -> Tensor:
        """The part of a whole tensor that this rank holds."""
        value = value.detach()
        if role is Role.NODE:
            return value[self.owned.to(value.device)]
        if role is Role.EDGE:
            return value[self.edges.to(value.device)]
        if role is Role.EDGE_INDEX:
            return self.local.to(value.device)[value[:, self.edges.to(value.device)]]
        return self._take_adjacency(value) if role is Role.ADJACENCY else value

    def _take_adjacency(self, value: Tensor) -> Tensor:
        mine = self.is_owned.to(value.device)[value.indices()[0]].nonzero().flatten()
        rows, columns = self.local.to(value.device)[value.indices()[:, mine]]
        # Rows ascend and no entry repeats, which is what kernels rely on; sorting columns by local number
        # would change the order in which a row is summed.
        return torch.sparse_coo_tensor(
            torch.stack([rows, columns]),
            value.values()[mine],
            (self.owned.numel(), self.owned.numel() + self.num_halo),
            is_coalesced=True,
            check_invariants=False,
        )
