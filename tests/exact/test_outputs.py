"""What a model returns besides its scores: node numbers, attention weights, several dropouts of one value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphshard

pyg = pytest.importorskip("torch_geometric.nn")


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(20, 4, generator=generator),
        "edge_index": torch.randint(0, 20, (2, 60), generator=generator),
    }


def test_node_numbers_in_an_output_are_global_ids() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = pyg.GATConv(4, 2, heads=2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Any:
            return self.conv(x, edge_index, return_attention_weights=True)

    report = graphshard.verify(Attention(), data(), 3, modes=["eval"])
    assert report.passed, report.failures
    assert sum(row.kind == "output" for row in report.rows) == 3


def test_two_dropouts_of_one_value_are_two_masks() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
            return F.dropout(x, 0.5, self.training), F.dropout(x, 0.5, self.training)

    shard = graphshard.partition(data(), 1)[0]
    first, second = graphshard.distribute(Twice())(shard)
    assert not torch.equal(first, second)
    assert graphshard.verify(Twice(), data(), 3).passed


def test_an_embedding_that_counts_frequencies_is_refused() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, scale_grad_by_freq=True)

        def forward(self, kind: Tensor, edge_index: Tensor) -> Tensor:
            return self.table(kind)

    shard = graphshard.partition({"kind": torch.arange(20) % 5, **data()}, 1)[0]
    with pytest.raises(graphshard.UnsupportedOperation, match="how often an index occurs"):
        graphshard.distribute(Counted())(shard)


def test_an_int_and_a_float_argument_are_two_calls() -> None:
    class Added(nn.Module):
        def forward(self, kind: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
            return kind + 1, kind + 1.0

    shard = graphshard.partition({"kind": torch.arange(20) % 5, **data()}, 1)[0]
    whole, real = graphshard.distribute(Added())(shard)
    assert whole.dtype == torch.int64
    assert real.dtype == torch.float32
