"""Any graph a user may hold -> :class:`GraphData`: checked tensors, each with its role.

Accepted: a PyG ``Data``, a networkx graph, a mapping of names to tensors, the sequence of forward's tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph_readers import RawGraph, read_graph
from graphshard.roles import SPARSE_LAYOUTS, Role, as_role, infer_role, is_edge_index

Roles = Mapping[str, "Role | str"]


@dataclass(frozen=True, eq=False)
class GraphData(Mapping[str, Tensor]):
    """A whole graph: a mapping of names to tensors whose roles are known; ``graph.x`` is ``graph["x"]``.

    Attributes:
        tensors: name -> tensor, in the order of the data.
        roles: name -> role, one for each tensor.
        num_nodes: N.
        positional: the data was a sequence; names are then ``"0"``, ``"1"``, ...
        num_classes: number of classes of ``y``, 0 where the source does not say.
        name: where the graph came from, for people.
    """

    tensors: dict[str, Tensor]
    roles: dict[str, Role]
    num_nodes: int
    positional: bool = False
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

    def edges(self) -> Tensor:
        """int64 ``[2, E]``, source and destination of each edge; of an adjacency, in coalesced order."""
        for name, role in self.roles.items():
            if role is Role.EDGE_INDEX:
                return self.tensors[name]
        adjacency = next(name for name, role in self.roles.items() if role is Role.ADJACENCY)
        return self.tensors[adjacency].indices().flip(0)


def as_graph_data(data: Any, roles: Roles | None = None, num_nodes: int | None = None) -> GraphData:
    """Read a graph in any accepted form, decide each tensor's role, check the edges.

    Args:
        data: see :func:`graphshard.partition`.
        roles: name -> role for tensors whose shape does not decide it, or to overrule what it would decide.
        num_nodes: N, where the data cannot say.

    Returns:
        The graph; an adjacency comes back coalesced COO. Tensors are the caller's own where nothing changed.

    Raises:
        PartitionError: the form is not supported, N or a role cannot be told, an edge does not fit.
    """
    if isinstance(data, GraphData):
        raw = RawGraph(dict(data.tensors), dict(data.roles), data.num_nodes, data.positional)
    else:
        raw = read_graph(data, num_nodes)
    tensors = raw.tensors
    given = {name: as_role(role, name) for name, role in (roles or {}).items()}
    if unknown := sorted(given.keys() - tensors.keys()):
        raise PartitionError(
            f"roles names {unknown[0]!r}, but the data has only {', '.join(tensors) or 'nothing'}"
        )
    fixed = raw.roles | given
    _find_graph(tensors, fixed)
    edges = _num_edges(tensors, fixed)
    nodes = _count_nodes(tensors, fixed, edges) if raw.num_nodes is None else raw.num_nodes
    inferred = {
        name: fixed[name] if name in fixed else infer_role(value, nodes, edges, name)
        for name, value in tensors.items()
    }
    return _finish(tensors, inferred, nodes, raw.positional)


def sorted_unique(values: Tensor) -> Tensor:
    """``values.unique()``, which torch leaves without types."""
    result: Tensor = values.unique()  # type: ignore[no-untyped-call]
    return result


def _find_graph(tensors: dict[str, Tensor], fixed: dict[str, Role]) -> None:
    """Add to ``fixed`` the one tensor that can be the graph, unless an edge index or adjacency is known."""
    for name, value in tensors.items():
        square = value.dim() == 2 and value.size(0) == value.size(1)
        if name not in fixed and value.layout in SPARSE_LAYOUTS and square:
            fixed[name] = Role.ADJACENCY
    if {Role.EDGE_INDEX, Role.ADJACENCY} & set(fixed.values()):
        return
    candidates = [name for name, value in tensors.items() if name not in fixed and is_edge_index(value)]
    if len(candidates) == 1:
        fixed[candidates[0]] = Role.EDGE_INDEX
        return
    if not candidates:
        raise PartitionError(
            "the data holds no graph: it needs an edge index (int64 [2, E]) or an adjacency "
            "(torch.sparse [N, N])"
        )
    names = ", ".join(repr(name) for name in candidates)
    raise PartitionError(
        f'{names} could each be the edge index: pass roles={{{candidates[0]!r}: "edge_index"}}'
    )


def _num_edges(tensors: dict[str, Tensor], fixed: dict[str, Role]) -> int:
    """E, after checking the dtype and shape of every tensor that holds the graph."""
    for name, role in fixed.items():
        value = tensors[name]
        if role is Role.EDGE_INDEX and not is_edge_index(value):
            shape = list(value.shape)
            raise PartitionError(f"edge index {name!r} must be int64 [2, E], not {value.dtype} {shape}")
        if role is Role.ADJACENCY:
            tensors[name] = _coalesced(value, name)
    for name, role in fixed.items():
        if role is Role.EDGE_INDEX:
            return tensors[name].size(1)
    name = next(name for name, role in fixed.items() if role is Role.ADJACENCY)
    return int(tensors[name].indices().size(1))


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


def _count_nodes(tensors: dict[str, Tensor], fixed: dict[str, Role], num_edges: int) -> int:
    """N of tensors that do not say it: the only leading dim that is long enough and is not E."""
    lowest = 0
    for name, role in fixed.items():
        if role is Role.ADJACENCY or (role is Role.NODE and tensors[name].dim() > 0):
            return tensors[name].size(0)
        if role is Role.EDGE_INDEX and tensors[name].numel() > 0:
            lowest = max(lowest, int(tensors[name].max()) + 1)
    rows = {value.size(0) for name, value in tensors.items() if name not in fixed and value.dim() > 0}
    rows -= {num_edges}
    fitting = {size for size in rows if size >= lowest}
    if rows and not fitting:
        raise PartitionError(
            f"the edges name nodes up to {lowest - 1}, but the tensors have {sorted(rows)} rows: an edge "
            "points past the nodes, or pass num_nodes="
        )
    if len(fitting) != 1:
        found = f"tensors have {sorted(fitting)} rows" if fitting else "no tensor has rows for nodes alone"
        raise PartitionError(
            f"the number of nodes cannot be told from the data ({found}, there are {num_edges} edges): pass "
            "num_nodes= or roles="
        )
    return fitting.pop()


def _finish(
    tensors: dict[str, Tensor], roles: dict[str, Role], num_nodes: int, positional: bool
) -> GraphData:
    """Check that every tensor fits its role and that the data holds one graph only."""
    if num_nodes < 1:
        raise PartitionError(f"a graph of {num_nodes} nodes cannot be partitioned")
    data = GraphData(tensors, roles, num_nodes, positional)
    edges = data.edges()
    for name, role in roles.items():
        value = tensors[name]
        if role is Role.EDGE_INDEX:
            _check_edge_index(value, num_nodes, name)
            if not torch.equal(value, edges):
                raise PartitionError(
                    f"{name!r} holds another graph than the first edge index: keep one of them"
                )
        elif role is Role.ADJACENCY:
            _check_adjacency(value, edges, num_nodes, name)
        elif role in (Role.NODE, Role.EDGE):
            rows = num_nodes if role is Role.NODE else edges.size(1)
            if value.layout in SPARSE_LAYOUTS or value.dim() == 0 or value.size(0) != rows:
                raise PartitionError(
                    f"{name!r} has role {role.value!r}, so it must be dense with {rows} rows, but its "
                    f"shape is {list(value.shape)}"
                )
    return data


def _check_edge_index(value: Tensor, num_nodes: int, name: str) -> None:
    outside = ((value < 0) | (value >= num_nodes)).nonzero()
    if outside.numel() > 0:
        row, edge = outside[0].tolist()
        raise PartitionError(
            f"{name}[{row}, {edge}] is {int(value[row, edge])}, but the graph has {num_nodes} nodes "
            f"(0..{num_nodes - 1})"
        )


def _check_adjacency(value: Tensor, edges: Tensor, num_nodes: int, name: str) -> None:
    if tuple(value.shape) != (num_nodes, num_nodes):
        raise PartitionError(
            f"adjacency {name!r} has shape {list(value.shape)}, but the graph has {num_nodes} nodes"
        )
    pattern = value.indices()
    _check_edge_index(pattern, num_nodes, f"{name}.indices()")
    keys = sorted_unique(edges[1] * num_nodes + edges[0])
    if not torch.equal(keys, pattern[0] * num_nodes + pattern[1]):
        raise PartitionError(
            f"adjacency {name!r} and the data's other graph have different edges: keep one of them"
        )
