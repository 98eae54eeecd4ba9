"""verify on models that leave something behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graphshard


class KeepsATensor(nn.Module):
    """As PyG's VGAE keeps its latent variables for the loss: tensors with a gradient, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.kept = self.lin(x)
        return torch.zeros_like(self.kept).index_add(0, edge_index[1], self.kept[edge_index[0]])


def test_a_model_that_keeps_a_tensor_of_its_last_call() -> None:
    torch.manual_seed(0)
    data = {"x": torch.rand(9, 3), "edge_index": torch.randint(0, 9, (2, 20))}
    model = KeepsATensor()
    assert graphshard.verify(model, data, 2, modes=["train"]).passed
    assert "kept" not in vars(model)
