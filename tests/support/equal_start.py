"""A model and a graph for tests of what ranks start with; ranks in other processes import them too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import graphshard

EDGES = torch.tensor([[0, 1, 2, 2, 3, 4, 0, 5, 5], [1, 2, 0, 3, 4, 2, 3, 5, 0]])
DATA = {
    "x": torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "edge_index": EDGES,
}
CUT = torch.tensor([0, 1, 0, 1, 1, 0])


class Net(nn.Module):
    """Everything that a state can hold: tied and frozen parameters, buffers of all kinds, strides."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.lin, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.lin.weight
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.turned = nn.Parameter(torch.randn(4, 3).t())
        self.register_buffer("kept", torch.randn(4), persistent=False)
        self.register_buffer("chosen", torch.rand(4) < 0.5)
        self.register_buffer("count", torch.tensor(seed))
        self.scale: Any = 1.0
        self.double()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        near = torch.zeros_like(x).index_add(0, edge_index[1], self.lin(x)[edge_index[0]])
        out = self.norm(self.again(near)) * self.scale + self.frozen + self.kept
        return torch.where(self.chosen, out, out + self.count) @ self.turned.t()  # type: ignore[arg-type]


def shards(parts: int = 2, data: dict[str, Tensor] = DATA, cut: Tensor = CUT) -> Any:
    return graphshard.partition(data, parts, method=cut)
