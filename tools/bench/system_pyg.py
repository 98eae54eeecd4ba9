"""Stock PyG on one process: ``edge_index``, or the transposed adjacency as a torch.sparse CSR tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from graphshard.tools.bench import pyg_models


def build(
    name: str, folder: str, adjacency: str
) -> tuple[Callable[[], float], Callable[[], int], Callable[[], None]]:
    """A step of plain PyTorch and PyG; nothing is sent."""
    held = {key: torch.from_numpy(value) for key, value in np.load(Path(folder) / "graph.npz").items()}
    x, y, mask, edges = held["x"], held["y"], held["train_mask"], held["edge_index"]
    graph = edges
    if adjacency == "csr":
        n = x.size(0)
        graph = torch.sparse_coo_tensor(edges.flip(0), torch.ones(edges.size(1)), (n, n)).to_sparse_csr()
    torch.manual_seed(0)
    model = pyg_models.make(name, x.size(1), int(held["hidden"]), int(held["classes"]))
    optimiser = torch.optim.Adam(model.parameters())

    def step() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x, graph)[mask], y[mask])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.item()

    return step, lambda: 0, lambda: None
