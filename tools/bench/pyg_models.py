"""The benchmarked models, as a user of PyG writes them: two layers, 128 -> 128 -> 32 by default, three, or a mesh's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MLP, GATConv, GCNConv, SAGEConv
from torch_geometric.utils import scatter

NAMES = ("sage", "gcn", "gat")


class TwoLayers(nn.Module):
    """Two convolutions with a ReLU between them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        hidden = self.first(x, edge_index).relu()
        out: Tensor = self.second(hidden, edge_index)
        return out


class ThreeLayers(nn.Module):
    """As OGB's examples have it: a ReLU and a dropout between the layers."""

    def __init__(self, convs: Iterable[nn.Module], dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        for conv in self.convs[:-1]:
            x = conv(x, edge_index).relu()
            if self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        out: Tensor = self.convs[-1](x, edge_index)
        return out


class MeshGraphNet(nn.Module):
    """Pfaff et al., 2021: edges and nodes with numbers of their own, each made anew from both in every step."""

    def __init__(self, features: int, hidden: int, classes: int, steps: int = 3) -> None:
        super().__init__()
        self.nodes, self.edges = MLP([features, hidden, hidden]), MLP([2 * features, hidden, hidden])
        self.on_edges = nn.ModuleList(MLP([3 * hidden, hidden, hidden]) for _ in range(steps))
        self.on_nodes = nn.ModuleList(MLP([2 * hidden, hidden, hidden]) for _ in range(steps))
        self.out = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Numbers of each node ``[N, classes]``."""
        source, destination = edge_index
        e = self.edges(torch.cat([x[source], x[destination]], -1))
        h = self.nodes(x)
        for on_edges, on_nodes in zip(self.on_edges, self.on_nodes, strict=True):
            e = e + on_edges(torch.cat([h[source], h[destination], e], -1))
            h = h + on_nodes(torch.cat([h, scatter(e, destination, 0, h.size(0), "sum")], -1))
        out: Tensor = self.out(h)
        return out


def make(name: str, features: int, hidden: int, classes: int) -> nn.Module:
    """GraphSAGE with the mean, GCN, or GAT with 4 heads of ``hidden / 4`` in layer 1 and of ``classes`` in layer 2.

    "mesh" is a :class:`MeshGraphNet`.
    "sage3" and "sage3-dropout" are :class:`ThreeLayers` of GraphSAGE, without dropout and with half of the numbers
    dropped; "gat3-dropout" that of GAT with 4 heads.
    """
    if name in ("sage3", "sage3-dropout"):
        widths = (features, hidden, hidden, classes)
        return ThreeLayers(map(SAGEConv, widths, widths[1:]), 0.5 if name == "sage3-dropout" else 0.0)
    if name == "gat3-dropout":
        inner = (GATConv(width, hidden // 4, heads=4) for width in (features, hidden))
        return ThreeLayers((*inner, GATConv(hidden, classes, heads=4, concat=False)), 0.5)
    if name == "mesh":
        return MeshGraphNet(features, hidden, classes)
    if name == "sage":
        return TwoLayers(SAGEConv(features, hidden), SAGEConv(hidden, classes))
    if name == "gcn":
        return TwoLayers(GCNConv(features, hidden), GCNConv(hidden, classes))
    return TwoLayers(GATConv(features, hidden // 4, heads=4), GATConv(hidden, classes, heads=4, concat=False))
