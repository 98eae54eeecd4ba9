"""Cut a graph into shards: METIS says who owns which node, an edge lives with its destination.

data -> roles and checks (graphdata) -> node -> part -> local numbers, halo plans -> one Shard per part
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, overload

import pymetis
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graphdata import Roles, as_graph_data, sorted_unique
from graphshard.numbering import build_shard, number_nodes
from graphshard.shard import Shard
from graphshard.shard_io import save


@dataclass(frozen=True)
class PartitionReport:
    """How good a partition is. Tuples have one entry for each part.

    Attributes:
        num_parts: number of parts.
        num_nodes: N.
        num_edges: E.
        edge_cut: edges whose two ends lie in different parts.
        halo_nodes: total number of halo copies.
        owned: owned nodes of each part.
        halo: halo nodes of each part.
        edges: edges of each part.
        node_balance: the largest part's owned nodes over the mean; 1.0 is perfect.
        edge_balance: the same of edges; 1.0 where there are none.
        replication_factor: ``(N + halo_nodes) / N``, how often a node is held.
    """

    num_parts: int
    num_nodes: int
    num_edges: int
    edge_cut: int
    halo_nodes: int
    owned: tuple[int, ...]
    halo: tuple[int, ...]
    edges: tuple[int, ...]
    node_balance: float
    edge_balance: float
    replication_factor: float

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain Python values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        cut = self.edge_cut / max(self.num_edges, 1)
        lines = [
            f"{self.num_nodes} nodes, {self.num_edges} edges in {self.num_parts} parts: "
            f"{self.edge_cut} edges cut ({cut:.1%}), each node held {self.replication_factor:.2f} times",
            f"largest part over mean: nodes {self.node_balance:.2f}, edges {self.edge_balance:.2f}",
            f"{'part':>5} {'owned':>10} {'halo':>10} {'edges':>12}",
        ]
        columns = zip(self.owned, self.halo, self.edges, strict=True)
        lines += [f"{part:>5} {n:>10} {h:>10} {e:>12}" for part, (n, h, e) in enumerate(columns)]
        return "\n".join(lines)


class ShardedGraph(Sequence[Shard]):
    """The shards of one graph, in the order of their ranks.

    Attributes:
        assignment: int64 ``[N]``, the part that owns each node.
        report: how good the partition is.
    """

    def __init__(self, shards: Sequence[Shard], assignment: Tensor, report: PartitionReport) -> None:
        self._shards = tuple(shards)
        self.assignment = assignment
        self.report = report

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | Sequence[Shard]:
        return self._shards[index]

    def __len__(self) -> int:
        return len(self._shards)

    def __repr__(self) -> str:
        return (
            f"ShardedGraph({self.report.num_nodes} nodes, {self.report.num_edges} edges, {len(self)} parts)"
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the directory that :func:`graphshard.load_shard` reads."""
        save(self, path)


def partition(
    data: Any,
    num_parts: int,
    *,
    method: str | Tensor | Callable[[Tensor, int, int], Tensor] = "metis",
    roles: Roles | None = None,
    seed: int = 0,
    num_nodes: int | None = None,
) -> ShardedGraph:
    """Cut a graph into ``num_parts`` shards.

    Args:
        data: one of

            - a PyG ``Data``: ``edge_index`` by definition; values that are no tensor are left out;
            - a mapping of names to tensors, with ``"edge_index"``, one int64 ``[2, E]`` or a
              ``torch.sparse`` adjacency ``[N, N]``;
            - the sequence of forward's own tensors, named ``"0"``, ``"1"``, ...;
            - a networkx graph: nodes in iteration order, undirected edges in both directions (all forward,
              then all back); an attribute that every node (edge) has, as a number or an array of one shape,
              becomes a tensor, any other is left out.

        num_parts: number of shards, at least 1; parts may be empty.
        method: ``"metis"``; a function ``(edge_index, num_nodes, num_parts) -> int64 [N]``; or that tensor.
        roles: name -> ``"node"|"edge"|"edge_index"|"adjacency"|"replicated"`` where dtype and shape leave a
            doubt, or are misleading; anything that has neither N nor E rows is replicated.
        seed: METIS' seed; the same input and seed give the same shards.
        num_nodes: N, where the data cannot say.

    Returns:
        The shards, with detached tensors that stay on the data's device; ids and plans are on the CPU.

    Raises:
        PartitionError: the graph, a role or the assignment is not valid; the sentence says which entry.
    """
    parts = _as_count(num_parts)
    graph = as_graph_data(data, roles, num_nodes)
    edges = graph.edges().cpu()
    assignment = _assign(edges, graph.num_nodes, parts, method, seed)
    numbering = number_nodes(edges, assignment, parts)
    shards = [build_shard(graph, numbering, rank) for rank in range(parts)]
    return ShardedGraph(shards, assignment, _report(shards, edges, assignment))


def _as_count(num_parts: int) -> int:
    try:
        parts = operator.index(num_parts)
    except TypeError:
        raise PartitionError(f"num_parts must be an int, not {type(num_parts).__name__}") from None
    if parts < 1:
        raise PartitionError(f"num_parts must be at least 1, not {parts}")
    return parts


def _assign(
    edges: Tensor,
    num_nodes: int,
    num_parts: int,
    method: str | Tensor | Callable[[Tensor, int, int], Tensor],
    seed: int,
) -> Tensor:
    """int64 ``[N]`` on the CPU, checked."""
    if isinstance(method, str):
        if method != "metis":
            raise PartitionError(
                f"there is no partition method {method!r}: use 'metis', a function or a tensor"
            )
        return metis(edges, num_nodes, num_parts, seed)
    found = method if isinstance(method, Tensor) else method(edges, num_nodes, num_parts)
    if not isinstance(found, Tensor) or found.dtype != torch.int64 or tuple(found.shape) != (num_nodes,):
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise PartitionError(f"the assignment must be an int64 tensor of {num_nodes} part ids, not {what}")
    found = found.detach().cpu()
    outside = ((found < 0) | (found >= num_parts)).nonzero()
    if outside.numel() > 0:
        node = int(outside[0])
        raise PartitionError(
            f"node {node} is assigned to part {int(found[node])}, but parts are 0..{num_parts - 1}"
        )
    return found.clone()


def metis(edge_index: Tensor, num_nodes: int, num_parts: int, seed: int = 0) -> Tensor:
    """Part of each node by METIS: few cut edges, parts alike in their number of edges.

    Works on the graph made undirected, without self loops and parallel edges. A node weighs its in-degree
    + 1, because an edge is computed by its destination's part.

    Args:
        edge_index: int64 ``[2, E]``, ids below ``num_nodes``.
        num_nodes: N.
        num_parts: number of parts.
        seed: METIS' seed.

    Returns:
        int64 ``[N]``. With at least as many parts as nodes, every node is a part.
    """
    if num_parts == 1:
        return torch.zeros(num_nodes, dtype=torch.int64)
    if num_parts >= num_nodes:  # METIS complains on stdout about graphs this small
        return torch.arange(num_nodes)
    source, destination = edge_index[:, edge_index[0] != edge_index[1]]
    keys = sorted_unique(torch.cat([source * num_nodes + destination, destination * num_nodes + source]))
    if keys.numel() == 0:
        return torch.arange(num_nodes) * num_parts // num_nodes
    starts = torch.zeros(num_nodes + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(keys // num_nodes, minlength=num_nodes).cumsum(0)
    weights = torch.bincount(edge_index[1], minlength=num_nodes) + 1
    options = pymetis.Options(seed=seed)
    graph = pymetis.CSRAdjacency(starts.numpy(), (keys % num_nodes).numpy())
    _, parts = pymetis.part_graph(num_parts, graph, vweights=weights.numpy(), options=options)
    return torch.tensor(parts, dtype=torch.int64)


def _report(shards: Sequence[Shard], edges: Tensor, assignment: Tensor) -> PartitionReport:
    owned, halo, own_edges = (
        tuple(getattr(shard, name) for shard in shards)
        for name in ("num_owned", "num_halo", "num_local_edges")
    )
    parts, num_nodes, num_edges = len(shards), assignment.numel(), edges.size(1)
    return PartitionReport(
        num_parts=parts,
        num_nodes=num_nodes,
        num_edges=num_edges,
        edge_cut=int((assignment[edges[0]] != assignment[edges[1]]).sum()),
        halo_nodes=sum(halo),
        owned=owned,
        halo=halo,
        edges=own_edges,
        node_balance=max(owned) * parts / num_nodes,
        edge_balance=max(own_edges) * parts / num_edges if num_edges else 1.0,
        replication_factor=(num_nodes + sum(halo)) / num_nodes,
    )
