"""Numbers of nodes in forward: splits, seeds and queries, read and written by number, as on one machine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local import local
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(14, 3, generator=RANDOM, dtype=torch.float64)
EDGES = torch.randint(14, (2, 40), generator=RANDOM)
Y = torch.randint(4, (14,), generator=RANDOM)


class Split(nn.Module):
    """The loss of the nodes of a split, an output for each of its entries, and their sums at the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4, dtype=torch.float64)

    def forward(
        self, x: Tensor, edge_index: Tensor, y: Tensor, idx: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.lin(x)
        h = h.index_add(0, edge_index[1], h[edge_index[0]].tanh())
        rows = h[idx] * weight.unsqueeze(-1)
        loss = F.cross_entropy(rows, y[idx]) + rows.square().mean()
        back = torch.zeros_like(h).index_add(0, idx, rows)
        return loss + back.std(), rows, back


@given(
    st.lists(st.integers(0, 13), min_size=1, max_size=30),
    st.lists(st.integers(0, 2), min_size=14, max_size=14),
)
@settings(max_examples=2, deadline=None)
def test_a_split_in_forward_equals_one_machine(numbers: list[int], cut: list[int]) -> None:
    idx = torch.tensor(numbers)
    weight = torch.arange(1.0, len(numbers) + 1, dtype=torch.float64)
    data = {"x": X, "edge_index": EDGES, "y": Y, "idx": idx, "weight": weight}
    roles = {"x": "node", "y": "node", "idx": "index", "weight": "edge:idx"}
    model = Split()
    shards = graphshard.partition(data, 3, roles=roles, method=torch.tensor(cut), num_nodes=14)
    models = [copy.deepcopy(model) for _ in shards]
    loss, rows, back = model(X, EDGES, Y, idx, weight)
    loss.backward()

    def on_rank(rank: int, _: object, group: Any) -> tuple[Tensor, ...]:
        found = graphshard.distribute(models[rank], group=group)(shards[rank])
        found[0].backward()
        return tuple(local(t.detach()) for t in found)

    for shard, ours, (own_loss, own_rows, own_back) in zip(
        shards, models, run_ranks(3, on_rank), strict=True
    ):
        torch.testing.assert_close(own_loss, loss.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            own_rows, rows.detach()[shard.edge_set("idx").edge_ids], rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(own_back, back.detach()[shard.node_set().owned_ids], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.lin.weight.grad, model.lin.weight.grad, rtol=1e-9, atol=1e-12)


def test_verify_takes_an_index() -> None:
    data = {
        "x": X,
        "edge_index": EDGES,
        "y": Y,
        "idx": torch.tensor([3, 1, 13, 3, 8]),
        "weight": torch.ones(5).double(),
    }
    roles = {"idx": "index", "weight": "edge:idx"}
    report = graphshard.verify(Split(), data, num_parts=2, roles=roles, modes=("train",))
    assert report.passed, str(report)
    whole = graphshard.verify(Split(), data, num_parts=2, roles={"idx": "replicated", "weight": "replicated"})
    assert whole.passed, str(whole)


class Numbers(nn.Module):
    """The numbers themselves, as values: those of the whole graph."""

    def forward(self, x: Tensor, edge_index: Tensor, idx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = x.index_add(0, edge_index[1], x[edge_index[0]])
        return idx, h[idx] * idx.unsqueeze(-1), (idx > 5).sum()


def test_numbers_as_values_are_those_of_the_graph() -> None:
    idx = torch.tensor([3, 1, 13, 3, 8])
    shards = graphshard.partition({"x": X, "edge_index": EDGES, "idx": idx}, 2, roles={"idx": "index"})
    expected = Numbers()(X, EDGES, idx)

    def on_rank(rank: int, _: object, group: Any) -> list[Tensor]:
        return list(local(graphshard.distribute(Numbers(), group=group)(shards[rank])))

    for shard, found in zip(shards, run_ranks(2, on_rank), strict=True):
        places = shard.edge_set("idx").edge_ids
        for own, whole in zip(found, (expected[0][places], expected[1][places], expected[2]), strict=True):
            torch.testing.assert_close(own, whole)


def test_the_index_of_a_call_is_refused_and_of_a_whole_graph_taken() -> None:
    idx, model = torch.tensor([3, 1]), Numbers()
    module = graphshard.distribute(model, roles={"idx": "index"})
    torch.testing.assert_close(module(X, EDGES, idx)[1], model(X, EDGES, idx)[1])
    shard = graphshard.partition({"x": X, "edge_index": EDGES}, 1)[0]
    with pytest.raises(graphshard.ShardError, match="numbers of nodes are cut with the graph"):
        module(shard.x, shard.edge_index, idx)
    assert "idx" in str(
        graphshard.diff(model, inputs={"x": "node:f64:3", "edge_index": "edge_index", "idx": "index"})
    )
