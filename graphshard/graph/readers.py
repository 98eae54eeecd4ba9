"""The forms in which a user may hold a graph -> tensors by name: PyG, networkx, mappings, sequences.

Of a heterogeneous graph every tensor has a *path*: the argument of forward that it is part of, and the type::

    HeteroData, {"x_dict": {"paper": ...}}    ->  x_dict['paper']            path ("x_dict", "paper")
    edge_index_dict[author, writes, paper]    ->  edge_index_dict[(...)]     path ("edge_index_dict", (...))
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.paths import EdgeType, Path, edge_type_of, path_name
from graphshard.graph.roles import Member, Role
from graphshard.private import pytree
from graphshard.private.pyg import is_hetero_data, is_sparse_tensor, store_key


@dataclass(frozen=True)
class RawGraph:
    """What a form says by itself.

    Attributes:
        tensors: name -> tensor, unchecked.
        members: the roles that the form decides.
        num_nodes: nodes of each node set, as far as the form or the caller says it.
        positional: the names are positions.
        paths: name -> where in forward's arguments a tensor is; none for those that are arguments themselves.
        node_types: of a heterogeneous graph; none otherwise.
        edge_types: likewise.
        labels_by_name: PyG's ``RandomLinkSplit`` made it: ``edge_label`` belongs to ``edge_label_index``.
    """

    tensors: dict[str, Tensor]
    members: dict[str, Member] = field(default_factory=dict)
    num_nodes: dict[str, int] = field(default_factory=dict)
    positional: bool = False
    paths: dict[str, Path] = field(default_factory=dict)
    node_types: tuple[str, ...] = ()
    edge_types: tuple[EdgeType, ...] = ()
    labels_by_name: bool = False


def read_graph(data: Any, num_nodes: int | Mapping[str, int] | None) -> RawGraph:
    """The tensors of a graph in any accepted form; ``num_nodes`` is N (of each type), where the caller knows it.

    Raises:
        PartitionError: the form is not supported, or it holds something other than tensors.
    """
    given = dict(num_nodes) if isinstance(num_nodes, Mapping) else {"": num_nodes}
    known = {name: count for name, count in given.items() if count is not None}
    if isinstance(data, Sequence) and any(map(_is_graph, data)):
        raise PartitionError(
            f"the data is a {type(data).__name__} of {len(data)} graphs, and one graph is cut: join them first, "
            "torch_geometric.data.Batch.from_data_list(graphs)"
        )
    if isinstance(data, nx.Graph):
        tensors, members = _from_networkx(data)
        return RawGraph(tensors, members, {"": data.number_of_nodes()})
    if is_hetero_data(data):
        return _from_hetero(data, known)
    if hasattr(data, "to_dict") and hasattr(data, "num_nodes") and hasattr(data, "edge_index"):
        tensors = _from_pyg(data)
        counts = known or {"": data.num_nodes}
        return RawGraph(tensors, _edge_index_by_name(tensors), counts, labels_by_name=True)
    if isinstance(data, Mapping):  # None is what an optional argument is
        present = {str(name): value for name, value in data.items() if value is not None}
        return _from_tree(present, known, positional=False)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _from_tree({str(i): value for i, value in enumerate(data)}, known, positional=True)
    several = " (of a data set pass one graph, dataset[0])" if hasattr(data, "__getitem__") else ""
    raise PartitionError(
        f"cannot read a graph from {type(data).__name__}{several}: pass a PyG Data or HeteroData, a networkx graph, a "
        "mapping of names to tensors, or the sequence of forward's tensors"
    )


def _is_graph(value: Any) -> bool:
    return isinstance(value, nx.Graph) or hasattr(value, "edge_index") or is_hetero_data(value)


def _from_tree(arguments: dict[str, Any], known: dict[str, int], *, positional: bool) -> RawGraph:
    """Forward's own arguments: tensors, and dicts (by node or edge type), tuples and lists of them."""
    tensors, paths = {}, {}
    for argument, value in arguments.items():
        for keys, leaf in pytree.tree_flatten_with_path(value)[0]:
            path = (argument, *(edge_type_of(_key(key)) for key in keys))
            name = path_name(path)
            if not isinstance(leaf, Tensor):
                raise PartitionError(
                    f"{name!r} is a {type(leaf).__name__}, not a tensor: convert it or leave it out"
                )
            tensors[name] = leaf
            if len(path) > 1:
                paths[name] = path
    typed = {path[1] for path in paths.values()}
    edge_types = [t for path in paths.values() if isinstance(t := path[1], tuple)]
    if not edge_types:
        members = {} if positional else _edge_index_by_name(tensors)
        return RawGraph(tensors, members, known, positional, paths)
    ends = [end for source, _, destination in edge_types for end in (source, destination)]
    node_types = [*ends, *(t for t in typed if isinstance(t, str)), *filter(None, known)]
    return RawGraph(
        tensors,
        _main_edge_indices(paths),
        known,
        positional,
        paths,
        tuple(sorted(set(node_types))),
        tuple(dict.fromkeys(edge_types)),
    )


def _key(key: Any) -> Any:
    """The key itself: of a mapping, or the position in a sequence."""
    return key.key if isinstance(key, pytree.MappingKey) else getattr(key, "idx", str(key))


def _main_edge_indices(paths: Mapping[str, Path]) -> dict[str, Member]:
    """In PyG's format, and in mappings that follow it, ``edge_index_dict`` holds the edges by definition."""
    return {
        name: Member(Role.EDGE_INDEX, edge_set_name(path[1]))
        for name, path in paths.items()
        if path[0] == "edge_index_dict" and isinstance(path[1], tuple) and len(path) == 2
    }


def edge_set_name(edge_type: EdgeType) -> str:
    """``author__writes__paper``, as PyG's ``to_hetero`` and ``ModuleDict`` name an edge type."""
    return "__".join(edge_type)


def _from_hetero(data: Any, known: dict[str, int]) -> RawGraph:
    """A PyG ``HeteroData``: ``data.x_dict`` is what every store's ``x`` makes together."""
    tensors: dict[str, Tensor] = {}
    paths: dict[str, Path] = {}
    counts = dict(known)
    for store in data.stores:
        key = store_key(store)
        for attribute, value in _pyg_tensors(store.items()).items():
            path: Path = (attribute,) if key is None else (f"{attribute}_dict", edge_type_of(key))
            name = path_name(path)
            tensors[name] = value
            if len(path) > 1:
                paths[name] = path
    for node_type in data.node_types:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyG says that it counts nodes by the edges
            found = data[node_type].num_nodes
        if node_type not in counts and found is not None:
            counts[node_type] = int(found)
    if not data.edge_types:
        raise PartitionError("the HeteroData has no edge type: it needs an edge_index for at least one")
    members = _main_edge_indices(paths)
    types = tuple(data.node_types), tuple(data.edge_types)
    return RawGraph(tensors, members, counts, False, paths, *types, labels_by_name=True)


def _edge_index_by_name(tensors: dict[str, Tensor]) -> dict[str, Member]:
    """In PyG's format, and in mappings that follow it, ``edge_index`` is the edge index by definition."""
    return {"edge_index": Member(Role.EDGE_INDEX)} if "edge_index" in tensors else {}


def _from_pyg(data: Any) -> dict[str, Tensor]:
    """The tensors of a PyG ``Data``."""
    return _pyg_tensors(data.to_dict().items())


def _pyg_tensors(items: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    """The tensors of a PyG store; other values (strings, numbers) describe no rows and are left out."""
    tensors = {}
    for name, value in items:
        if is_sparse_tensor(value):
            raise PartitionError(
                f"{name!r} is a torch_sparse.SparseTensor, which is not supported: keep edge_index, or use "
                "ToSparseTensor(layout=torch.sparse_coo)"
            )
        if isinstance(value, Tensor):
            # A subclass such as PyG's EdgeIndex carries caches of the whole graph: keep the plain tensor.
            tensors[name] = value if type(value) is Tensor else value.as_subclass(Tensor)
    return tensors


def _from_networkx(graph: Any) -> tuple[dict[str, Tensor], dict[str, Member]]:
    """Nodes in iteration order; an undirected edge in both directions: all forward ones, then all back."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    ends = [(position[u], position[v]) for u, v in graph.edges()]
    edge_index = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    back = torch.empty(0, dtype=torch.int64)
    if not graph.is_directed():  # a self loop is its own way back
        back = (edge_index[0] != edge_index[1]).nonzero().flatten()
    tensors = {"edge_index": torch.cat([edge_index, edge_index[:, back].flip(0)], dim=1)}
    known = {"edge_index": Member(Role.EDGE_INDEX)}
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
            known[name] = Member(role)
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
