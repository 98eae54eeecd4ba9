"""How good a partition is: what is cut, copied, and how evenly the rest is spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.data import GraphData
from graphshard.graph.schema import MESSAGES, Schema
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
        busiest: halo rows that one rank sends and receives in a sync of everything, of the rank with most of them.
        method: what decided who owns which node; "given" where the user did.
        why: why "auto" chose that method; empty where it was asked for.
        seconds: that it all took, checks of the graph and shards included.
        peak_memory: bytes that the process held at its peak, above those before: with the shards, where they stay in
            memory. None where it is not known, as the process had held more before.
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
    busiest: int = 0
    method: str = "given"
    why: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None

    def sync_bytes(self, width: int, itemsize: int = 4) -> int:
        """Bytes that all ranks together receive in one halo sync of rows of ``width`` numbers.

        Args:
            width: numbers of a row: features, or hidden units. A training step syncs once for each layer that reads
                neighbours, and sends as much back for the gradient.
            itemsize: bytes of a number; 4 of float32.
        """
        return self.halo_nodes * width * itemsize

    def busiest_bytes(self, width: int, itemsize: int = 4) -> int:
        """As :meth:`sync_bytes`, what the busiest rank sends and receives: it decides how long a sync takes."""
        return self.busiest * width * itemsize

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain Python values, ready for JSON."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        plain["owned_by_type"] = {name: list(counts) for name, counts in self.owned_by_type.items()}
        plain["halo_by_plan"] = {":".join(key): list(counts) for key, counts in self.halo_by_plan.items()}
        return plain

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> PartitionReport:
        """The report that :meth:`as_dict` made a dict of, as ``graphshard partition --json`` prints it.

        Raises:
            PartitionError: it is none.
        """
        try:
            plain = {field.name: found[field.name] for field in fields(cls)}
            for name in ("owned", "halo", "edges"):
                plain[name] = tuple(map(int, found[name]))
            plain["owned_by_type"] = {name: tuple(counts) for name, counts in found["owned_by_type"].items()}
            plain["halo_by_plan"] = {
                (key.rpartition(":")[0], key.rpartition(":")[2]): tuple(counts)
                for key, counts in found["halo_by_plan"].items()
            }
            report = cls(**plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PartitionError(f"this is no report of a partition: {error!r}") from None
        if {len(report.owned), len(report.halo), len(report.edges)} != {report.num_parts}:
            raise PartitionError(f"the report is of {report.num_parts} parts, and lists others")
        return report

    def __str__(self) -> str:
        cut = self.edge_cut / max(self.num_edges, 1)
        lines = [
            f"{self.num_nodes} nodes, {self.num_edges} edges in {self.num_parts} parts: "
            f"{self.edge_cut} edges cut ({cut:.1%}), each node held {self.replication_factor:.2f} times",
            f"largest part over mean: nodes {self.node_balance:.2f}, edges {self.edge_balance:.2f}; "
            f"the busiest rank sends and receives {self.busiest} rows",
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


@dataclass(frozen=True)
class PartCounts:
    """What the report needs of one part.

    Attributes:
        owned: node set -> owned nodes.
        halo: ``(node set, plan)`` -> halo nodes.
        sent: halo rows of other parts that are its own nodes, of all plans together.
        edges: edges that messages run along.
    """

    owned: Mapping[str, int]
    halo: Mapping[tuple[str, str], int]
    sent: int
    edges: int

    @classmethod
    def of(cls, shard: Shard) -> PartCounts:
        """Those of a shard."""
        plans = {(n, p): plan for n, nodes in shard.node_sets.items() for p, plan in nodes.plans.items()}
        return cls(
            {name: nodes.num_owned for name, nodes in shard.node_sets.items()},
            {key: plan.num_halo for key, plan in plans.items()},
            sum(sum(plan.send_splits) for plan in plans.values()),
            shard.num_local_edges,
        )


@dataclass(frozen=True)
class How:
    """How a partition was made: fields of the report."""

    method: str = "given"
    why: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None


def report_of(
    schema: Schema, num_edges: int, edge_cut: int, counts: Sequence[PartCounts], how: How
) -> PartitionReport:
    """The report on the parts of a graph."""
    by_type = {name: tuple(part.owned[name] for part in counts) for name in schema.nodes}
    plans = [(name, plan) for name in schema.nodes for plan in schema.plans(name)]
    owned = tuple(sum(part.owned.values()) for part in counts)
    halo = tuple(sum(part.halo[name, MESSAGES] for name in schema.nodes) for part in counts)
    edges, nodes = tuple(part.edges for part in counts), sum(owned)
    named = {} if schema.homogeneous else by_type
    return PartitionReport(
        num_parts=len(counts),
        num_nodes=nodes,
        num_edges=num_edges,
        edge_cut=edge_cut,
        halo_nodes=sum(halo),
        owned=owned,
        halo=halo,
        edges=edges,
        node_balance=_balance(owned),
        edge_balance=_balance(edges),
        replication_factor=(nodes + sum(halo)) / nodes,
        owned_by_type=named,
        balance_by_type={name: _balance(found) for name, found in named.items()},
        halo_by_plan={key: tuple(part.halo[key] for part in counts) for key in plans},
        busiest=max(part.sent + sum(part.halo.values()) for part in counts),
        **asdict(how),
    )


def edges_cut(graph: GraphData, assignments: Mapping[str, Tensor]) -> int:
    """Edges whose two ends lie in different parts."""
    cut = 0
    for edge_set in graph.schema.messages:
        index = graph.edges(edge_set.name).cpu()
        for some in index.split(_AT_ONCE, dim=1):  # type: ignore[no-untyped-call]
            owners = assignments[edge_set.source][some[0]], assignments[edge_set.destination][some[1]]
            cut += int((owners[0] != owners[1]).sum())
    return cut
