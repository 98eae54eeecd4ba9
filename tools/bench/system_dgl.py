"""Stock DGL on one process; needs a Python of its own, for DGL 2.1 works with torch 2.2.1 and numpy 1.26."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dgl
import dgl.nn
import numpy as np
import torch
import torch.nn.functional as F


class TwoLayers(torch.nn.Module):
    """Two convolutions with a ReLU between them; the heads of attention joined, then averaged."""

    def __init__(self, name: str, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.attention = name == "gat"
        layers: dict[str, Callable[[int, int], Any]] = {
            "sage": lambda i, o: dgl.nn.SAGEConv(i, o, "mean"),
            "gcn": dgl.nn.GraphConv,
            "gat": lambda i, o: dgl.nn.GATConv(i, o, 4),
        }
        layer = layers[name]
        self.first = layer(features, hidden // 4 if self.attention else hidden)
        self.second = layer(hidden, classes)

    def forward(self, graph: Any, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]``."""
        hidden = self.first(graph, x)
        hidden = (hidden.flatten(1) if self.attention else hidden).relu()
        out: torch.Tensor = self.second(graph, hidden)
        return out.mean(1) if self.attention else out


def build(
    name: str, folder: str, _adjacency: str
) -> tuple[Callable[[], float], Callable[[], int], Callable[[], None]]:
    """A step of plain PyTorch and DGL; GCN and GAT have self loops, as PyG's add them."""
    held = {key: torch.from_numpy(value) for key, value in np.load(Path(folder) / "graph.npz").items()}
    x, y, mask, edges = held["x"], held["y"], held["train_mask"], held["edge_index"]
    graph = dgl.graph((edges[0], edges[1]), num_nodes=x.size(0))
    if name != "sage":
        graph = dgl.add_self_loop(graph)
    torch.manual_seed(0)
    model = TwoLayers(name, x.size(1), int(held["hidden"]), int(held["classes"]))
    optimiser = torch.optim.Adam(model.parameters())

    def step() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(graph, x)[mask], y[mask])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.item()

    return step, lambda: 0, lambda: None
