"""A model, graphs and training steps for the tests of ``verify_training``: right ones, and ones with a fault."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphshard

NODES, CLASSES = 13, 3


class Mean(nn.Module):
    """One layer of means over in-edges, and a linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.lin, self.dropout = nn.Linear(4, CLASSES), dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index[0], edge_index[1]
        total = torch.zeros_like(x).index_add(0, dst, x[src])
        return self.lin(F.dropout(x + total / 3, self.dropout, self.training))


def graph(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(NODES, 4, generator=generator, dtype=torch.float64),
        "edge_index": torch.randint(NODES, (2, 40), generator=generator),
        "y": torch.randint(CLASSES, (NODES,), generator=generator),
        "train_mask": torch.arange(NODES) % 3 > 0,
    }


CUT = (torch.arange(NODES) > 8).long()
"""Nine nodes on rank 0, four on rank 1."""


def losses(model: Any, data: Any) -> Tensor:
    """The loss of each training node that is here, ``[n]``."""
    mask = data.train_mask
    return F.cross_entropy(model(data)[mask], data.y[mask], reduction="none")


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def right(model: Any, optimizer: Any, data: Any) -> dict[str, Any]:
    loss = descend(optimizer, graphshard.mean(losses(model, data)))
    with torch.no_grad():
        out = model(data)
    hits = graphshard.sum((out.argmax(-1) == data.y).double())
    return {"loss": loss, "accuracy": hits / NODES, "logits": data.gather(out), "name": "right"}
