"""Arguments that are no tensors of the shard: rows or one value, never by the coincidence of a size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphshard
from graphshard import GraphshardError, RuntimeMismatch, Shard
from graphshard.testing import run_ranks


class Weighted(nn.Module):
    """``w`` has a weight for each node, or for each class: exact in both, and not the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4, dtype=torch.float64)

    def forward(self, x: Tensor, edge_index: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x)
        h = h.index_add(0, edge_index[1], h[edge_index[0]])
        return h.square().mean() * w.sum(), h * w.mean()


RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(12, 3, generator=RANDOM, dtype=torch.float64)
EDGES = torch.stack([torch.randint(12, (36,), generator=RANDOM), torch.arange(36) % 12])
EVEN, UNEVEN = torch.arange(12) % 3, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
CLASSES = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
Weight = Callable[[Shard], Tensor]


def losses(
    cut: Tensor, *weights: Weight, roles: Any = None, call: Callable[..., Any] | None = None
) -> list[list[float]]:
    """Of each rank the losses of calls with one weight after the other."""
    shards = graphshard.partition({"x": X, "edge_index": EDGES}, 3, method=cut)
    models = [copy.deepcopy(MODEL) for _ in shards]

    def on_rank(rank: int, _: object, group: Any) -> list[float]:
        model, shard = graphshard.distribute(models[rank], group=group, roles=roles), shards[rank]
        run = call or (lambda model, shard, w: model(shard.x, shard.edge_index, w))
        return [float(run(model, shard, weight(shard))[0].detach()) for weight in weights]

    return run_ranks(3, on_rank)


MODEL = Weighted()


def expected(w: Tensor) -> float:
    return float(MODEL(X, EDGES, w)[0].detach())


def test_one_value_as_long_as_the_rows_of_every_rank_is_asked_for() -> None:
    with pytest.raises(
        RuntimeMismatch, match=r"'w'.*every rank happens to have 4 rows of 'node'.*\"replicated\""
    ):
        losses(EVEN, lambda _: CLASSES)
    for found in losses(EVEN, lambda _: CLASSES, roles={"w": "replicated"}):
        assert found == pytest.approx([expected(CLASSES)], rel=1e-9)
    for found in losses(EVEN, lambda _: CLASSES, roles={"w": "node"}):
        assert found == pytest.approx([expected(CLASSES.repeat(3))], rel=1e-9)


def test_one_value_as_long_as_the_edges_of_every_rank_is_asked_for() -> None:
    with pytest.raises(RuntimeMismatch, match="12 rows of 'edge'"):
        losses(EVEN, lambda _: torch.ones(12, dtype=torch.float64))


def test_a_new_tensor_of_the_shard_is_asked_for_as_well() -> None:
    def call(model: Any, shard: Shard, w: Tensor) -> Any:
        shard.w = w
        return model(shard)

    with pytest.raises(RuntimeMismatch, match="every rank happens to have 4 rows"):
        losses(EVEN, lambda _: CLASSES, call=call)
    rows = torch.arange(12.0, dtype=torch.float64)
    for weight in (lambda s: s.scatter(rows, "node"), lambda s: s.scatter(rows, "node").local() * 1.0):
        for found in losses(EVEN, weight, call=call):
            assert found == pytest.approx([expected(rows)], rel=1e-9)


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.integers(0, 3), st.booleans())
@settings(max_examples=3, deadline=None)
def test_rows_or_one_value_is_right_or_refused(cut: list[int], width: int, rows: bool) -> None:
    whole = X.square().sum(1) if rows else torch.arange(1.0, 4 + width, dtype=torch.float64)
    weight: Weight = (lambda s: s.x.local().square().sum(1)) if rows else (lambda _: whole)
    try:
        found = losses(torch.tensor(cut), weight)
    except GraphshardError:
        return
    for mine in found:
        assert mine == pytest.approx([expected(whole)], rel=1e-9)


def test_what_a_name_was_before_does_not_decide_what_it_is() -> None:
    """First one value of 4, then rows: rank 1 alone has 4 of them."""
    for found in losses(UNEVEN, lambda _: CLASSES, lambda s: s.x.local()[:, 0] * 2, lambda _: CLASSES):
        assert found == pytest.approx([expected(w) for w in (CLASSES, X[:, 0] * 2, CLASSES)], rel=1e-9)


def test_a_value_that_is_not_the_same_on_all_ranks_is_named() -> None:
    def weight(shard: Shard) -> Tensor:
        return torch.ones(2, dtype=torch.float64) + (shard.rank == 2)

    for roles in (None, {"w": "replicated"}):
        with pytest.raises(
            RuntimeMismatch, match=r"the content of argument 'w' is .* on rank 0 but .* on rank 2"
        ):
            losses(UNEVEN, weight, roles=roles)
    fixed = torch.ones(2, dtype=torch.float64)
    with pytest.raises(RuntimeMismatch, match="the content of argument 'w'"):
        losses(UNEVEN, lambda _: fixed, weight)


def test_a_tensor_of_the_shard_on_some_ranks_only_is_named() -> None:
    def weight(shard: Shard) -> Tensor:
        return shard.x.local()[:, 0] if shard.rank else shard.scatter(X[:, 0], "node")

    with pytest.raises(
        RuntimeMismatch, match="rank 1 passes 'w', no tensor of the shard, where rank 0 passes"
    ):
        losses(UNEVEN, weight)
