"""How good a partition is: what is cut, copied, and how evenly the rest is spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from graphshard.graph.data import GraphData
from graphshard.shard.shard import Shard


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
        owned_by_type: node type -> owned nodes of each part; empty for a homogeneous graph.
        balance_by_type: node type -> its ``node_balance``; 1.0 where it has no nodes.
        halo_by_plan: ``(node set, plan)`` -> halo nodes of each part; ``("", "")`` of a homogeneous graph.
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
    owned_by_type: Mapping[str, tuple[int, ...]]
    balance_by_type: Mapping[str, float]
    halo_by_plan: Mapping[tuple[str, str], tuple[int, ...]]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain Python values, ready for JSON."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        plain["owned_by_type"] = {name: list(counts) for name, counts in self.owned_by_type.items()}
        plain["halo_by_plan"] = {":".join(key): list(counts) for key, counts in self.halo_by_plan.items()}
        return plain

    def __str__(self) -> str:
        cut = self.edge_cut / max(self.num_edges, 1)
        lines = [
            f"{self.num_nodes} nodes, {self.num_edges} edges in {self.num_parts} parts: "
            f"{self.edge_cut} edges cut ({cut:.1%}), each node held {self.replication_factor:.2f} times",
            f"largest part over mean: nodes {self.node_balance:.2f}, edges {self.edge_balance:.2f}",
            f"{'part':>5} {'owned':>10} {'halo':>10} {'edges':>12}",
        ]
        columns = zip(self.owned, self.halo, self.edges, strict=True)
        lines[2:2] = [
            f"  {name}: {sum(counts)} nodes, largest part over mean {self.balance_by_type[name]:.2f}"
            for name, counts in self.owned_by_type.items()
        ]
        lines += [f"{part:>5} {n:>10} {h:>10} {e:>12}" for part, (n, h, e) in enumerate(columns)]
        return "\n".join(lines)


_AT_ONCE = 1 << 22  # edges that are looked at together


def _balance(counts: Sequence[int]) -> float:
    """The largest over the mean; 1.0 where all are 0."""
    return max(counts) * len(counts) / sum(counts) if sum(counts) else 1.0


def report_of(
    graph: GraphData, shards: Sequence[Shard], assignments: Mapping[str, Tensor]
) -> PartitionReport:
    """The report on the shards of a graph."""
    owned, halo, own_edges = (
        tuple(getattr(shard, name) for shard in shards)
        for name in ("num_owned", "num_halo", "num_local_edges")
    )
    cut = 0
    for edge_set in graph.schema.messages:
        index = graph.edges(edge_set.name).cpu()
        for some in index.split(_AT_ONCE, dim=1):  # type: ignore[no-untyped-call]
            owners = assignments[edge_set.source][some[0]], assignments[edge_set.destination][some[1]]
            cut += int((owners[0] != owners[1]).sum())
    names = () if graph.schema.homogeneous else graph.schema.nodes
    by_type = {name: tuple(shard.node_sets[name].num_owned for shard in shards) for name in names}
    plans = [(name, plan) for name in graph.schema.nodes for plan in graph.schema.plans(name)]
    return PartitionReport(
        num_parts=len(shards),
        num_nodes=graph.num_nodes,
        num_edges=graph.num_edges,
        edge_cut=cut,
        halo_nodes=sum(halo),
        owned=owned,
        halo=halo,
        edges=own_edges,
        node_balance=_balance(owned),
        edge_balance=_balance(own_edges),
        replication_factor=(graph.num_nodes + sum(halo)) / graph.num_nodes,
        owned_by_type=by_type,
        balance_by_type={name: _balance(counts) for name, counts in by_type.items()},
        halo_by_plan={
            (name, plan): tuple(shard.node_sets[name].plans[plan].num_halo for shard in shards)
            for name, plan in plans
        },
    )
