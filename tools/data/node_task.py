"""A graph with a class for each node: what every data source makes, checked in one place."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import DataError
from graphshard.graph.data import GraphData, Roles, as_graph_data
from graphshard.graph.roles import Role

MASKS = ("train_mask", "val_mask", "test_mask")
EDGE_KEYS = ("edge_weight", "edge_attr", "edge_type")


def from_tensors(tensors: dict[str, Tensor], name: str, seed: int, num_classes: int = 0) -> GraphData:
    """The tensors that every source promises, from whatever a file held."""
    for key in ("edge_index", "y"):
        if key not in tensors:
            raise DataError(f"{name} has no {key!r}; it has {', '.join(tensors) or 'no tensors'}")
    y, edges = tensors["y"].squeeze(), tensors["edge_index"]
    if edges.dim() != 2 or edges.size(0) != 2 or edges.is_floating_point():
        raise DataError(
            f"edge_index of {name} must be integers [2, E], not {edges.dtype} {list(edges.shape)}"
        )
    if y.dim() != 1:
        raise DataError(
            f"y of {name} must hold one class for each node, but its shape is {list(tensors['y'].shape)}"
        )
    edges = edges.long()
    x = tensors["x"] if "x" in tensors else _degree_features(edges, y.numel())
    masks = _masks(tensors, y.numel(), name, seed)
    skipped = {"x", "y", "edge_index", "split", *MASKS}
    more = {key: value for key, value in tensors.items() if key not in skipped}
    return node_task(name, x.float(), edges, y, masks, more=more, num_classes=num_classes)


def hetero_task(data: Any, name: str, seed: int) -> GraphData:
    """A PyG ``HeteroData``: float32 features; node types with labels ``y`` but no masks are split 60/20/20."""
    data = copy.copy(data)
    classes = 0
    for node_type in data.node_types:
        store = data[node_type]
        if "x" in store:
            store.x = store.x.float()
            broken = store.x.isnan().flatten(1).any(dim=1).nonzero()
            if broken.numel() > 0:
                raise DataError(f"x of {node_type!r} in {name} holds NaN at row {int(broken[0])}")
        if "y" in store and store.y.dim() == 1:
            store.y = _checked_labels(store.y, f"{name}, {node_type!r}", 0)
            classes = max(classes, int(store.y.max()) + 1 if store.y.numel() else 0)
            if "train_mask" not in store:
                for mask, kept in random_split(store.y.numel(), seed).items():
                    store[mask] = kept
    return replace(as_graph_data(data), num_classes=classes, name=name)


def _degree_features(edges: Tensor, num_nodes: int) -> Tensor:
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= num_nodes):
        return torch.ones(num_nodes, 3)  # the check of the edges will say which one is wrong
    counts = [torch.bincount(ends, minlength=num_nodes).float().log1p() for ends in (edges[1], edges[0])]
    return torch.stack([*counts, torch.ones(num_nodes)], dim=1)


def _masks(tensors: dict[str, Tensor], num_nodes: int, name: str, seed: int) -> dict[str, Tensor]:
    if "split" in tensors:
        split = tensors["split"]
        if tuple(split.shape) != (num_nodes,) or not bool(((split >= 0) & (split <= 2)).all()):
            raise DataError(f"split of {name} must hold 0 (train), 1 (validation) or 2 (test) for each node")
        return {mask: split == code for code, mask in enumerate(MASKS)}
    if "train_mask" not in tensors:
        return random_split(num_nodes, seed)
    none = torch.zeros(num_nodes, dtype=torch.bool)
    return {mask: tensors.get(mask, none).bool() for mask in MASKS}


def random_split(num_nodes: int, seed: int) -> dict[str, Tensor]:
    """60/20/20, the same for the same seed."""
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(seed))
    part = torch.empty(num_nodes, dtype=torch.int64)
    part[order] = (torch.arange(num_nodes) * 5 // num_nodes).sub(2).clamp(min=0)
    return {mask: part == code for code, mask in enumerate(MASKS)}


def node_task(
    name: str,
    x: Tensor,
    edges: Tensor,
    y: Tensor,
    masks: dict[str, Tensor],
    *,
    more: dict[str, Tensor] | None = None,
    num_classes: int = 0,
) -> GraphData:
    """Check what every source promises, and put it together."""
    broken = x.isnan().any(dim=-1).nonzero() if x.dim() > 1 else x.isnan().nonzero()
    if broken.numel() > 0:
        raise DataError(f"x of {name} holds NaN at row {int(broken[0])}")
    if x.dim() != 2:
        raise DataError(f"x of {name} must be [N, F], but its shape is {list(x.shape)}")
    labels = _checked_labels(y, name, num_classes)
    tensors = {"x": x, "edge_index": edges, "y": labels, **masks, **(more or {})}
    known: Roles = dict.fromkeys(("x", "y", *MASKS), Role.NODE)
    known = {**known, **dict.fromkeys(tensors.keys() & set(EDGE_KEYS), Role.EDGE)}
    checked = as_graph_data(tensors, known, x.size(0))
    classes = num_classes or (int(labels.max()) + 1 if labels.numel() else 0)
    return replace(checked, num_classes=classes, name=name)


def _checked_labels(y: Tensor, name: str, num_classes: int) -> Tensor:
    if y.is_floating_point():
        odd = (y != y.round()).nonzero()  # NaN is unequal to itself
        if odd.numel() > 0:
            row = int(odd[0])
            raise DataError(f"y of {name} must hold classes 0, 1, ..., but row {row} is {float(y[row])}")
    y = y.long()
    outside = (y < 0) if num_classes == 0 else (y < 0) | (y >= num_classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        limit = f"..{num_classes - 1}" if num_classes else ", 1, ..."
        raise DataError(f"y of {name} must hold classes 0{limit}, but row {row} is {int(y[row])}")
    return y
