"""A rewritten program is a graph of registered ops: ``torch.compile`` takes a step whole, on several ranks."""

from __future__ import annotations

import pytest
import torch
from support.compiled_steps import steps
from support.strategies import fixed_case
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv

from graphshard.ranks.launch import launch

pytestmark = pytest.mark.versions


class TwoLayers(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "gcn":
            self.first, self.second = GCNConv(5, 8), GCNConv(8, 3)
        else:
            self.first, self.second = GATConv(5, 4, heads=2), GATConv(8, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = F.dropout(self.first(x, edge_index).relu(), 0.5, self.training)
        return self.second(h, edge_index)


@pytest.mark.parametrize("kind", ["gcn", "gat"])
def test_aot_eager_on_two_ranks(kind: str) -> None:
    torch.manual_seed(0)
    case = fixed_case(parts=2)
    graph = {name: case.tensors[name] for name in ("x", "edge_index")}
    for found in launch(steps, 2, (TwoLayers(kind).double(), graph, case.assignment)):
        eager, compiled = found["eager"], found["compiled"]
        assert len(eager) > 4
        assert eager.keys() == compiled.keys()
        for name, value in eager.items():
            assert value.abs().sum() > 0
            assert torch.equal(compiled[name], value), name
