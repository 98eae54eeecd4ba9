"""Models in half precision on the CPU: as near to PyG as the dtype allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import pyg
from support.wrapped import EDGES, X, shards
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

LAYERS = {
    "gcn": lambda: pyg.GCNConv(4, 3),
    "sage": lambda: pyg.SAGEConv(4, 3, aggr="max"),
    "gat": lambda: pyg.GATConv(4, 3, heads=2),
    "gin": lambda: pyg.GINConv(nn.Linear(4, 3)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_half_precision(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    x = X.to(dtype).requires_grad_()
    out = graphshard.distribute(layer)(x, EDGES)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    expected = layer(x, EDGES)
    torch.testing.assert_close(out, expected, atol=0.1, rtol=0.05)
    (wanted,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(gradient, wanted, atol=0.1, rtol=0.05)


def test_half_precision_on_ranks() -> None:
    torch.manual_seed(0)
    layers = [pyg.GCNConv(4, 3).bfloat16() for _ in range(2)]
    parts = [part.to(torch.bfloat16) for part in shards()]

    def rank(number: int, _name: str, group: Any) -> Tensor:
        out = graphshard.distribute(layers[number], group=group)(parts[number])
        return parts[number].gather(out.detach(), group)

    for found in run_ranks(2, rank):
        torch.testing.assert_close(found, layers[0](X.bfloat16(), EDGES).detach(), atol=0.05, rtol=0.05)
