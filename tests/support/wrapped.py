"""Small models and graphs for tests of what stands around a distributed module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphshard

N = 14
_GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(N, 4, generator=_GENERATOR, dtype=torch.float64)
EDGES = torch.randint(0, N, (2, 45), generator=_GENERATOR)
CUT = torch.arange(N) % 2


def neighbours(x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])


class Net(nn.Module):
    """A layer with a temperature, a buffer, dropout, and methods besides forward."""

    scale: Tensor

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4).double()
        self.temperature, self.p = 1.0, p
        self.register_buffer("scale", torch.full((4,), 2.0, dtype=torch.float64))

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return F.dropout(neighbours(self.lin(x), edge_index).tanh(), self.p, self.training) * self.scale

    def decode(self, z: Tensor, edge_index: Tensor) -> Tensor:
        return (z[edge_index[0]] * z[edge_index[1]]).sum(-1) / self.temperature

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return (self.encode(x, edge_index) / self.temperature).softmax(-1)

    def reset_parameters(self, value: float = 0.5) -> None:
        nn.init.constant_(self.lin.weight, value)

    def count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def net(p: float = 0.0) -> Net:
    """The same in every thread."""
    made = Net(p)
    weight = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4)
    made.lin.load_state_dict({"weight": weight, "bias": weight[0]})
    return made


def shards(parts: int = 2, cut: Tensor = CUT) -> Any:
    return graphshard.partition({"x": X, "edge_index": EDGES}, parts, method=cut % parts)
