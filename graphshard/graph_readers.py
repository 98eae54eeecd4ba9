"""The forms in which a user may hold a graph -> tensors by name: PyG, networkx, mappings, sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.roles import Role


@dataclass(frozen=True)
class RawGraph:
    """What a form says by itself.

    Attributes:
        tensors: name -> tensor, unchecked.
        roles: those that the form decides.
        num_nodes: N, if the form or the caller says it.
        positional: the names are positions.
    """

    tensors: dict[str, Tensor]
    roles: dict[str, Role]
    num_nodes: int | None
    positional: bool


def read_graph(data: Any, num_nodes: int | None) -> RawGraph:
    """The tensors of a graph in any accepted form; ``num_nodes`` is N, where the caller knows it.

    Raises:
        PartitionError: the form is not supported, or it holds something other than tensors.
    """
    if isinstance(data, nx.Graph):
        tensors, known = _from_networkx(data)
        return RawGraph(tensors, known, data.number_of_nodes(), False)
    if any(base.__name__ == "HeteroData" for base in type(data).__mro__):
        raise PartitionError(
            "heterogeneous graphs (HeteroData) are not supported yet: pass a homogeneous Data"
        )
    if hasattr(data, "to_dict") and hasattr(data, "num_nodes") and hasattr(data, "edge_index"):
        tensors = _from_pyg(data)
        nodes = data.num_nodes if num_nodes is None else num_nodes
        return RawGraph(tensors, _edge_index_by_name(tensors), nodes, False)
    if isinstance(data, Mapping):
        tensors = _only_tensors((str(name), value) for name, value in data.items())
        return RawGraph(tensors, _edge_index_by_name(tensors), num_nodes, False)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        tensors = _only_tensors((str(i), value) for i, value in enumerate(data))
        return RawGraph(tensors, {}, num_nodes, True)
    raise PartitionError(
        f"cannot read a graph from {type(data).__name__}: pass a PyG Data, a networkx graph, a mapping of "
        "names to tensors, or the sequence of forward's tensors"
    )


def _edge_index_by_name(tensors: dict[str, Tensor]) -> dict[str, Role]:
    """In PyG's format, and in mappings that follow it, ``edge_index`` is the edge index by definition."""
    return {"edge_index": Role.EDGE_INDEX} if "edge_index" in tensors else {}


def _only_tensors(items: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in items:
        if not isinstance(value, Tensor):
            raise PartitionError(
                f"{name!r} is a {type(value).__name__}, not a tensor: convert it or leave it out"
            )
        tensors[name] = value
    return tensors


def _from_pyg(data: Any) -> dict[str, Tensor]:
    """The tensors of a PyG ``Data``; other values (strings, numbers) describe no rows and are left out."""
    tensors = {}
    for name, value in data.to_dict().items():
        if type(value).__name__ == "SparseTensor":
            raise PartitionError(
                f"{name!r} is a torch_sparse.SparseTensor, which is not supported: keep edge_index, or use "
                "ToSparseTensor(layout=torch.sparse_coo)"
            )
        if isinstance(value, Tensor):
            # A subclass such as PyG's EdgeIndex carries caches of the whole graph: keep the plain tensor.
            tensors[name] = value if type(value) is Tensor else value.as_subclass(Tensor)
    return tensors


def _from_networkx(graph: Any) -> tuple[dict[str, Tensor], dict[str, Role]]:
    """Nodes in iteration order; an undirected edge in both directions: all forward ones, then all back."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    ends = [(position[u], position[v]) for u, v in graph.edges()]
    edge_index = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    back = torch.empty(0, dtype=torch.int64)
    if not graph.is_directed():  # a self loop is its own way back
        back = (edge_index[0] != edge_index[1]).nonzero().flatten()
    tensors = {"edge_index": torch.cat([edge_index, edge_index[:, back].flip(0)], dim=1)}
    known = {"edge_index": Role.EDGE_INDEX}
    columns = [
        (_attribute_columns([attrs for _, attrs in graph.nodes(data=True)]), Role.NODE, None),
        (_attribute_columns([attrs for _, _, attrs in graph.edges(data=True)]), Role.EDGE, back),
    ]
    for found, role, again in columns:
        for name, column in found.items():
            if name in tensors:
                raise PartitionError(
                    f"the graph has two attributes named {name!r}: rename the node or the edge one"
                )
            tensors[name] = column if again is None else torch.cat([column, column[again]])
            known[name] = role
    return tensors, known


def _attribute_columns(rows: list[dict[Any, Any]]) -> dict[str, Tensor]:
    """Attributes that are numbers or equally shaped arrays on every row; the rest cannot be a tensor."""
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    columns = {}
    for name in names:
        column = _stack([row[name] for row in rows])
        if column is not None:
            columns[str(name)] = column
    return columns


def _stack(values: list[Any]) -> Tensor | None:
    if all(isinstance(v, (bool, int, float)) for v in values):
        return torch.tensor(values)
    try:
        arrays = np.stack([np.asarray(v) for v in values])
    except (ValueError, TypeError, RuntimeError):
        return None
    return torch.from_numpy(arrays) if arrays.dtype.kind in "biuf" else None
