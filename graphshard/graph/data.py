"""Any graph a user may hold -> :class:`GraphData`: checked tensors, each with its role.

Accepted: a PyG ``Data`` or ``HeteroData``, a networkx graph, a mapping of names to tensors, forward's tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.checks import Found, check_graph, check_no_numbers, check_nodes, largest_of
from graphshard.graph.edge_sets import count_nodes, edge_type, find_edge_sets, schema_of
from graphshard.graph.paths import Path
from graphshard.graph.readers import RawGraph, edge_set_name, read_graph
from graphshard.graph.roles import GivenRole, Member, Role, as_member, infer_member
from graphshard.graph.schema import NUMBERS, Schema, Sizes

Roles = Mapping[str, GivenRole]


@dataclass(frozen=True, eq=False)
class GraphData(Mapping[str, Tensor]):
    """A whole graph: a mapping of names to tensors whose roles are known; ``graph.x`` is ``graph["x"]``.

    Attributes:
        tensors: name -> tensor, in the order of the data.
        members: name -> role and set, one for each tensor.
        node_counts: node set -> its number of nodes; ``{"": N}`` of a homogeneous graph.
        schema: the node sets and edge sets.
        positional: the data was a sequence; names are then ``"0"``, ``"1"``, ...
        paths: name -> where in forward's arguments a tensor is, if it is no argument itself.
        num_classes: number of classes of ``y``, 0 where the source does not say.
        name: where the graph came from, for people.
    """

    tensors: dict[str, Tensor]
    members: dict[str, Member]
    node_counts: dict[str, int]
    schema: Schema = Schema()  # noqa: RUF009 (frozen)
    positional: bool = False
    paths: dict[str, Path] = field(default_factory=dict)
    num_classes: int = 0
    name: str = "graph"

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getattr__(self, name: str) -> Tensor:
        tensors = self.__dict__.get("tensors", {})
        if name in tensors:
            return tensors[name]  # type: ignore[no-any-return]
        raise AttributeError(f"this graph has no tensor {name!r}; it has {', '.join(tensors) or 'none'}")

    @property
    def roles(self) -> dict[str, Role]:
        """name -> role, one for each tensor."""
        return {name: member.role for name, member in self.members.items()}

    @property
    def num_nodes(self) -> int:
        """N; of all node sets together."""
        return sum(self.node_counts.values())

    @property
    def num_edges(self) -> int:
        """E; of all edge sets that messages run along together."""
        return sum(self.edges(edge_set.name).size(1) for edge_set in self.schema.messages)

    def edges(self, name: str = "") -> Tensor:
        """int64 ``[2, E]``, source and destination of each edge of a set; of an adjacency, in coalesced order; of an
        index ``[2, m]``, each node twice."""
        for tensor, member in self.members.items():
            if member.role.is_index and member.of == name:
                return self.tensors[tensor]
            if member.role is Role.INDEX and member.of == name:
                return self.tensors[tensor].expand(2, -1)
        adjacency = next(n for n, member in self.members.items() if member.role is Role.ADJACENCY)
        return self.tensors[adjacency].indices().flip(0)


def as_graph_data(
    data: Any,
    roles: Roles | None = None,
    num_nodes: int | Mapping[str, int] | None = None,
    *,
    cut: bool = False,
) -> GraphData:
    """Read a graph in any accepted form, decide each tensor's role, check the edges.

    Args:
        data: see :func:`graphshard.partition`.
        roles: name -> role for tensors whose shape does not decide it, or to overrule what it would decide.
        num_nodes: N (of each node set), where the data cannot say.
        cut: it will be cut into several parts, which number nodes and edges anew.

    Returns:
        The graph; an adjacency comes back coalesced COO. Tensors are the caller's own where nothing changed.

    Raises:
        PartitionError: the form is not supported, N or a role cannot be told, an edge does not fit.
    """
    raw = _as_raw(data) if isinstance(data, GraphData) else read_graph(data, num_nodes)
    tensors = raw.tensors
    given = {name: as_member(role, name) for name, role in (roles or {}).items()}
    if unknown := sorted(given.keys() - tensors.keys()):
        raise PartitionError(
            f"roles names {unknown[0]!r}, but the data has only {', '.join(tensors) or 'nothing'}"
        )
    edge_sets, members = find_edge_sets(raw, raw.members | given)
    for name, member in members.items():
        if member.role is Role.ADJACENCY:
            tensors[name] = _coalesced(tensors[name], name)
    schema = schema_of(raw, members, edge_sets)
    # The edges of a set do not depend on what is still unknown: how many nodes there are.
    graph = GraphData(tensors, members, {}, schema, raw.positional, raw.paths)
    sizes = _sizes(raw, graph)
    check_nodes(sizes)
    members |= {name: _infer(raw, name, schema, sizes) for name in tensors if name not in members}
    members = {name: members[name] for name in tensors}
    found = GraphData(tensors, members, dict(sizes.nodes), schema, raw.positional, raw.paths)
    checked = Found(tensors, members, schema, sizes, found.edges, raw, frozenset(given))
    check_graph(checked)
    if cut:
        check_no_numbers(checked)
    return found


def _as_raw(graph: GraphData) -> RawGraph:
    typed = not graph.schema.homogeneous
    return RawGraph(
        dict(graph.tensors),
        dict(graph.members),
        dict(graph.node_counts),
        graph.positional,
        graph.paths,
        graph.schema.nodes if typed else (),
    )


def _sizes(raw: RawGraph, graph: GraphData) -> Sizes:
    edges = {edge_set.name: graph.edges(edge_set.name) for edge_set in graph.schema.edges}
    counts = {name: index.size(1) for name, index in edges.items()}
    nodes = {}
    for name in graph.schema.nodes:
        lowest = 0
        for edge_set in graph.schema.messages:
            for row, end in enumerate((edge_set.source, edge_set.destination)):
                if end == name and counts[edge_set.name]:
                    lowest = max(lowest, largest_of(edges[edge_set.name][row]) + 1)
        known = raw.num_nodes.get(name)
        nodes[name] = (
            count_nodes(raw, graph.members, name, lowest, _edge_counts(graph.schema, counts))
            if known is None
            else known
        )
    return Sizes(nodes, counts)


def _edge_counts(schema: Schema, counts: Mapping[str, int]) -> set[int]:
    return {counts[e.name] for e in schema.edges if e.plan != NUMBERS}


def _infer(raw: RawGraph, name: str, schema: Schema, sizes: Sizes) -> Member:
    """The role of a tensor, from its dtype, its shape, and the type it stands under."""
    value, below = raw.tensors[name], raw.paths.get(name, ("", ""))[1]
    # As many rows as an index has entries is a coincidence until the user says more.
    edges = {e.name: sizes.edges[e.name] for e in schema.edges if e.plan != NUMBERS}
    sizes = Sizes(sizes.nodes, edges)
    kind = edge_type(raw, name)
    if kind is not None:
        main = edge_set_name(kind)
        own = {e.name for e in schema.edges if e.name == main or e.name.startswith(f"{main}.")}
        sizes = Sizes({}, {n: count for n, count in sizes.edges.items() if n in own})
    elif raw.node_types and below in sizes.nodes:
        sizes = Sizes({str(below): sizes.nodes[str(below)]}, {})
    if raw.labels_by_name and (labelled := _labelled(name, raw, sizes)) is not None:
        return labelled
    return infer_member(value, sizes, name)


def _labelled(name: str, raw: RawGraph, sizes: Sizes) -> Member | None:
    """``edge_label`` beside ``edge_label_index``: what PyG's ``RandomLinkSplit`` writes as one."""
    value, kind = raw.tensors[name], edge_type(raw, name)
    if kind is None:
        of = f"{name}_index"
    else:
        of = f"{edge_set_name(kind)}.{str(raw.paths[name][0]).removesuffix('_dict')}_index_dict"
    rows = sizes.edges.get(of) if of else None
    return Member(Role.EDGE, of) if value.dim() > 0 and rows == value.size(0) else None


def _coalesced(value: Tensor, name: str) -> Tensor:
    """COO or CSR adjacency -> detached, coalesced COO."""
    if value.layout not in (torch.sparse_coo, torch.sparse_csr) or value.dim() != 2 or value.dense_dim() > 0:
        raise PartitionError(
            f"adjacency {name!r} must be a torch.sparse COO or CSR matrix, not {value.layout} "
            f"{list(value.shape)}"
        )
    value = value.detach()
    if value.layout is torch.sparse_csr:
        # By hand: to_sparse_coo() of a CSR tensor warns that CSR is in beta.
        degree = value.crow_indices().diff()
        rows = torch.arange(value.size(0), device=degree.device).repeat_interleave(degree)
        indices = torch.stack([rows.long(), value.col_indices().long()])
        value = torch.sparse_coo_tensor(indices, value.values(), value.shape, check_invariants=True)
    return value.coalesce()
