"""A sparse adjacency of a shard: forward multiplies by it; outside of forward it is never taken for the whole one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.wrapped import CUT, EDGES, N, X
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

ADJACENCY = torch.sparse_coo_tensor(
    EDGES.flip(0), torch.linspace(0.1, 1, EDGES.size(1), dtype=torch.float64), (N, N), check_invariants=True
).coalesce()

OUTSIDE: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sum": lambda adj, _x: torch.sparse.sum(adj),
    "product": torch.sparse.mm,
    "operator": lambda adj, x: adj @ x,
    "entries": lambda adj, _x: adj.coalesce().values(),
    "transposed": lambda adj, _x: adj.t(),
    "dense": lambda adj, _x: adj.to_dense(),
}


class Layer(nn.Module):
    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        product: Tensor = torch.sparse.mm(adj, x)
        return product


def parts() -> Any:
    return graphshard.partition({"x": X, "adj": ADJACENCY}, 2, method=CUT)


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_of_forward_it_is_refused(name: str) -> None:
    shards = parts()

    def rank(number: int, _name: str, _group: Any) -> None:
        shard = shards[number]
        with pytest.raises(
            graphshard.UnsupportedOperation, match=r"test_sparse_part\.py.*multiply by it in forward"
        ):
            OUTSIDE[name](shard.adj, shard.x)

    run_ranks(2, rank)


def test_a_model_takes_it() -> None:
    shards, expected = parts(), torch.sparse.mm(ADJACENCY, X)

    def rank(number: int, _name: str, group: Any) -> Any:
        shard, model = shards[number], graphshard.distribute(Layer(), group=group)
        again = pickle.loads(pickle.dumps(copy.deepcopy(shard)))
        assert shard.adj.shape == (N, N)
        assert again.adj.size(1) == N
        assert shard.adj.is_sparse
        assert shard.adj.local().shape[0] == shard.num_owned
        return again.gather(model(again), group).local(), shard.gather(
            model(shard.x, shard.adj), group
        ).local()

    for found in run_ranks(2, rank):
        torch.testing.assert_close(found, (expected, expected))


def test_one_rank_of_one_has_it_whole() -> None:
    shard = graphshard.partition({"x": X, "adj": ADJACENCY}, 1)[0]
    assert type(shard.adj) is Tensor
    torch.testing.assert_close(torch.sparse.mm(shard.adj, shard.x), torch.sparse.mm(ADJACENCY, X))
