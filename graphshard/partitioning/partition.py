"""Cut a graph into shards: a method says who owns which node, an edge lives with its destination.

data -> roles and checks (graphdata) -> node -> part (assign) -> local numbers, halo plans -> one Shard per part
"""

from __future__ import annotations

import gc
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, overload

from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.data import GraphData, Roles, as_graph_data
from graphshard.partitioning.assign import Assigned, Method, decide
from graphshard.partitioning.identity import identity_of
from graphshard.partitioning.meter import Meter
from graphshard.partitioning.numbering import Numbering, build_shard, number_nodes
from graphshard.partitioning.report import How, PartCounts, PartitionReport, edges_cut, report_of
from graphshard.shard.files import save, writing
from graphshard.shard.shard import Shard


class ShardedGraph(Sequence[Shard]):
    """The shards of one graph, in the order of their ranks.

    Attributes:
        assignments: of each node set int64 ``[N]``, the part that owns each node.
        report: how good the partition is.
    """

    def __init__(
        self, shards: Sequence[Shard], assignments: Mapping[str, Tensor], report: PartitionReport
    ) -> None:
        self._shards = tuple(shards)
        self.assignments = dict(assignments)
        self.report = report

    @property
    def assignment(self) -> Tensor:
        """int64 ``[N]``, the part that owns each node of a homogeneous graph."""
        if len(self.assignments) != 1:
            raise PartitionError("the graph has several node types: read assignments[node_type]")
        return next(iter(self.assignments.values()))

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
    method: Method = "metis",
    roles: Roles | None = None,
    seed: int = 0,
    num_nodes: int | Mapping[str, int] | None = None,
    positions: str | None = None,
) -> ShardedGraph:
    """Cut a graph into ``num_parts`` shards.

    Args:
        data: one of

            - a PyG ``Data``: ``edge_index`` by definition, any other int64 ``[2, L]`` holds pairs of nodes to
              be scored; values that are no tensor are left out;
            - a PyG ``HeteroData``, or the same as dicts: ``{"x_dict": {"paper": x}, "edge_index_dict":
              {("author", "writes", "paper"): edge_index}}``; node types are cut jointly;
            - a mapping of names to tensors, with ``"edge_index"``, one int64 ``[2, E]`` or a
              ``torch.sparse`` adjacency ``[N, N]``;
            - the sequence of forward's own tensors, named ``"0"``, ``"1"``, ...;
            - a networkx graph: nodes in iteration order, undirected edges in both directions (all forward,
              then all back); an attribute that every node (edge) has, as a number or an array of one shape,
              becomes a tensor, any other is left out.

        num_parts: number of shards, at least 1; parts may be empty.
        method: ``"metis"``, ``"metis-volume"``, ``"multilevel"``, ``"rcb"``, ``"mtkahypar"``, or ``"auto"``, which
            chooses one by the size of the graph; a function ``(edge_index, num_nodes, num_parts) -> int64 [N]``; or
            that tensor. Of several node types all three are dicts: edge set -> index, node type -> N, node type ->
            parts.
        roles: name -> ``"node"|"edge"|"edge_index"|"pairs"|"index"|"adjacency"|"replicated"`` where dtype and
            shape leave a doubt, or are misleading; anything that has neither N nor E rows is replicated. A set is
            named behind a colon: ``"edge:edge_label_index"`` for what has a row for each pair,
            ``"node:user"``; a bipartite graph of plain tensors by ``"edge_index:user->movie"``. Numbers of nodes
            (``train_idx``, seeds) are an ``"index"``, or ``"index:user"``: each rank holds those of its own nodes, in
            its own numbers, and ``shard.edge_set("train_idx").edge_ids`` says where they stand in the whole.
        seed: of what the method draws; the same input and seed give the same shards, but of ``"mtkahypar"``.
        num_nodes: N, or node type -> N, where the data cannot say.
        positions: for ``"rcb"``, the name of the node tensor ``[N, D]`` that says where nodes are; PyG's ``pos`` by
            default.

    Returns:
        The shards, with detached tensors that stay on the data's device; ids and plans are on the CPU.

    Raises:
        PartitionError: the graph, a role or the assignment is not valid, or the method needs what is not there; the
            sentence says which.
    """
    meter = Meter()
    plan = _plan(data, num_parts, method, roles, seed, num_nodes, positions)
    shards = list(plan.shards())
    return ShardedGraph(shards, plan.assigned.parts, plan.report([PartCounts.of(s) for s in shards], meter))


def partition_to(
    path: str | PathLike[str],
    data: Any,
    num_parts: int,
    *,
    method: Method = "metis",
    roles: Roles | None = None,
    seed: int = 0,
    num_nodes: int | Mapping[str, int] | None = None,
    positions: str | None = None,
) -> PartitionReport:
    """As :func:`partition` and ``save(path)``, with one shard in memory at a time.

    Raises:
        PartitionError: as of :func:`partition`. ShardError: as of ``save``.
    """
    meter = Meter()
    plan, counts = _plan(data, num_parts, method, roles, seed, num_nodes, positions), []
    with writing(path) as files:
        for shard in plan.shards():
            files.add(shard)
            counts.append(PartCounts.of(shard))
            # Before the next is made: a shard and its tensors know each other.
            del shard
            gc.collect()
    return plan.report(counts, meter)


@dataclass(frozen=True, eq=False)
class _Plan:
    """All that is decided before the first shard is made."""

    graph: GraphData
    assigned: Assigned
    numbering: Numbering
    identity: str
    parts: int

    def shards(self) -> Iterator[Shard]:
        for rank in range(self.parts):
            yield replace(build_shard(self.graph, self.numbering, rank), partition_id=self.identity)

    def report(self, counts: Sequence[PartCounts], meter: Meter) -> PartitionReport:
        cut = edges_cut(self.graph, self.assigned.parts)
        how = How(self.assigned.method, self.assigned.why, meter.seconds, meter.peak)
        return report_of(self.graph.schema, self.graph.num_edges, cut, counts, how)


def _plan(
    data: Any,
    num_parts: int,
    method: Method,
    roles: Roles | None,
    seed: int,
    num_nodes: int | Mapping[str, int] | None,
    positions: str | None,
) -> _Plan:
    parts = _as_count(num_parts)
    if isinstance(data, (Shard, ShardedGraph)):
        raise PartitionError(f"a {type(data).__name__} is cut already: partition() takes the whole graph")
    # What the package itself read before has its roles.
    graph = as_graph_data(data, roles, num_nodes, cut=parts > 1 and not isinstance(data, GraphData))
    assigned = decide(graph, parts, method, seed, positions)
    numbering = number_nodes(graph, assigned.parts, parts)
    return _Plan(graph, assigned, numbering, identity_of(graph, assigned.parts, parts), parts)


def _as_count(num_parts: int) -> int:
    try:
        parts = operator.index(num_parts)
    except TypeError:
        raise PartitionError(f"num_parts must be an int, not {type(num_parts).__name__}") from None
    if parts < 1:
        raise PartitionError(f"num_parts must be at least 1, not {parts}")
    return parts
