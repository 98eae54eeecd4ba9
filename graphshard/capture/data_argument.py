"""``forward(self, data)``: the tensors of a graph as the one object that forward reads them from.

::

    model(shard)  ->  data={"x": .., "edge_index": ..}  ->  flat inputs  ->  data.x, data.edge_index  ->  forward

It is a PyG ``Data`` or ``HeteroData`` where PyG is imported, else an object with these attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from graphshard.private.pyg import loaded_modules


def as_data(tensors: Mapping[str, Any], num_nodes: Mapping[str, Any]) -> Any:
    """The object that forward reads.

    Args:
        tensors: attribute -> tensor; of a heterogeneous graph ``x_dict`` -> type -> tensor, as a shard has it.
        num_nodes: node set -> its number of rows, for those of which a tensor tells it.
    """
    classes = loaded_modules().get("torch_geometric.data")
    if any(isinstance(value, Mapping) for value in tensors.values()):
        return _hetero(classes, tensors, num_nodes)
    values = {**tensors, "num_nodes": num_nodes.get("")}
    return SimpleNamespace(**values) if classes is None else classes.Data(**values)


def _hetero(classes: Any, tensors: Mapping[str, Any], num_nodes: Mapping[str, Any]) -> Any:
    if classes is None:
        return SimpleNamespace(**tensors)
    data = classes.HeteroData()
    for name, value in tensors.items():
        if not isinstance(value, Mapping):
            data[name] = value
            continue
        for key, tensor in value.items():
            data[key][name.removesuffix("_dict")] = tensor
    for node_type, count in num_nodes.items():
        data[node_type].num_nodes = count
    return data
