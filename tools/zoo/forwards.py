"""The forwards that many configurations share: what a layer is given, by the names of the graphs' tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rows(m: Any, x: Tensor) -> Any:
    """A layer over the rows of nodes, after a linear layer and before a nonlinearity."""
    return m.layer(x).tanh()


def edges(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    """Nodes and edges."""
    return m.layer(x, edge_index)


def weights(m: Any, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Any:
    """And a weight for each edge."""
    return m.layer(x, edge_index, edge_weight)


def attributes(m: Any, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Any:
    """And features of each edge."""
    return m.layer(x, edge_index, edge_attr)


def types(m: Any, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Any:
    """And a relation of each edge."""
    return m.layer(x, edge_index, edge_type)


def initial(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
    """A layer that is given the features of the first layer as well."""
    return m.layer(x0, x0 * 0.5, edge_index)


def initial_weights(m: Any, x0: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Any:
    """And a weight for each edge."""
    return m.layer(x0, x0 * 0.5, edge_index, edge_weight)


def hidden(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
    """A layer from HIDDEN features to HIDDEN."""
    return m.layer(x0, edge_index)


def hidden_weights(m: Any, x0: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Any:
    """And a weight for each edge."""
    return m.layer(x0, edge_index, edge_weight)


def positions(m: Any, x: Tensor, pos: Tensor, edge_index: Tensor) -> Any:
    """Nodes with a position."""
    return m.layer(x, pos, edge_index)


def split(m: Any, x: Tensor, edge_index: Tensor, edge_mask: Tensor) -> Any:
    """Two sets of edges."""
    return m.layer(x, edge_index[:, edge_mask], edge_index[:, ~edge_mask])


def twice_split(m: Any, x: Tensor, edge_index: Tensor, edge_mask: Tensor) -> Any:
    """Two sets of edges, and features of two kinds."""
    return m.layer(torch.cat([x, -x.tanh()], 1), edge_index[:, edge_mask], edge_index[:, ~edge_mask])
