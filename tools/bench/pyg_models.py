"""The benchmarked models, as a user of PyG writes them: two layers, 128 -> 128 -> 32 by default."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

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


def make(name: str, features: int, hidden: int, classes: int) -> nn.Module:
    """GraphSAGE with the mean, GCN, or GAT with 4 heads of ``hidden / 4`` in layer 1 and of ``classes`` in layer 2."""
    if name == "sage":
        return TwoLayers(SAGEConv(features, hidden), SAGEConv(hidden, classes))
    if name == "gcn":
        return TwoLayers(GCNConv(features, hidden), GCNConv(hidden, classes))
    return TwoLayers(GATConv(features, hidden // 4, heads=4), GATConv(hidden, classes, heads=4, concat=False))
