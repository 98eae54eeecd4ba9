"""Gathered rows and rows taken of a whole: values, gradients and second gradients against one machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local import local
from torch import Tensor

from graphshard.errors import RuntimeMismatch, ShardError
from graphshard.ops.gather import gather_rows, take_rows
from graphshard.partitioning.partition import partition
from graphshard.testing import run_ranks


def _deal(owner: list[int], world: int) -> list[Tensor]:
    return [
        torch.tensor([i for i, r in enumerate(owner) if r == rank], dtype=torch.int64)
        for rank in range(world)
    ]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_loss_of_gathered_rows_has_every_derivative(owner: list[int], seed: int) -> None:
    """Parts without a row included."""
    torch.manual_seed(seed)
    whole = torch.randn(len(owner), 2, dtype=torch.float64)
    mix = torch.randn(len(owner), len(owner), dtype=torch.float64)
    ids = _deal(owner, 3)

    def loss(rows: Tensor) -> Tensor:
        return (mix @ rows).sin().pow(2).sum()

    leaf = whole.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.cos().sum(), leaf)

    def rank(number: int, name: str, _: Any) -> None:
        mine = whole[ids[number]].clone().requires_grad_()
        gathered = gather_rows(mine, ids[number], len(owner), name)
        assert torch.equal(gathered, whole)
        (found,) = torch.autograd.grad(loss(gathered), mine, create_graph=True)
        torch.testing.assert_close(found, first[ids[number]])
        all_rows = gather_rows(found, ids[number], len(owner), name)
        (again,) = torch.autograd.grad(all_rows.cos().sum(), mine)
        torch.testing.assert_close(again, second[ids[number]])

    run_ranks(3, rank)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=9))
@settings(max_examples=10, deadline=None)
def test_rows_taken_of_a_whole_give_back_a_whole_gradient(owner: list[int]) -> None:
    whole, ids = torch.randn(len(owner), 2, dtype=torch.float64), _deal(owner, 2)
    weight = torch.randn_like(whole)

    def rank(number: int, name: str, _: Any) -> None:
        leaf = whole.clone().requires_grad_()
        mine = take_rows(leaf, ids[number], name)
        assert torch.equal(mine, whole[ids[number]])
        all_rows = gather_rows(mine.pow(3), ids[number], len(owner), name)
        (found,) = torch.autograd.grad((all_rows * weight).sum(), leaf, create_graph=True)
        torch.testing.assert_close(found, 3 * whole.square() * weight)
        (again,) = torch.autograd.grad(found.square().sum(), leaf)
        torch.testing.assert_close(again, 36 * whole.pow(3) * weight.square())

    run_ranks(2, rank)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.bfloat16, torch.complex64])
def test_rows_of_any_dtype(dtype: torch.dtype) -> None:
    whole, ids = torch.arange(5).remainder(2).to(dtype), _deal([1, 0, 0, 1, 0], 2)

    def rank(number: int, name: str, _: Any) -> None:
        assert torch.equal(gather_rows(whole[ids[number]], ids[number], 5, name), whole)

    run_ranks(2, rank)


def test_a_loss_of_one_rank_alone_is_an_error() -> None:
    """Every rank's own rows, in the place of all: the sum of the gradients would be another's."""
    ids = _deal([0, 1, 0, 1], 2)

    def rank(number: int, name: str, _: Any) -> None:
        mine = torch.ones(2, requires_grad=True)
        gather_rows(mine, ids[number], 4, name)[ids[number]].sum().backward()

    with pytest.raises(RuntimeMismatch, match="gathered rows differs between the ranks"):
        run_ranks(2, rank)


def test_a_shard_gathers_nodes_edges_and_pairs() -> None:
    torch.manual_seed(0)
    whole = {
        "x": torch.randn(9, 2, dtype=torch.float64),
        "edge_index": torch.randint(9, (2, 20)),
        "edge_attr": torch.randn(20, dtype=torch.float64),
        "edge_label_index": torch.randint(9, (2, 7)),
        "edge_label": torch.randn(7, dtype=torch.float64),
    }
    shards = partition(whole, 2)
    roles = {"x": "node", "edge_attr": "edge", "edge_label": "edge:edge_label_index"}

    def rank(number: int, _: str, group: Any) -> None:
        shard = shards[number]
        for name, role in roles.items():
            rows = local(shard.tensors[name]).clone().requires_grad_()
            gathered = local(shard.gather(rows, group, role=role))
            torch.testing.assert_close(gathered.detach(), whole[name])
            (gathered.square().sum() / 2).backward()
            torch.testing.assert_close(rows.grad, rows.detach())
        with pytest.raises(ShardError, match="other rows on rank 1"):
            shard.gather(
                local(shard.edge_attr if number else shard.x), group, role="edge" if number else "node"
            )
        with pytest.raises(ShardError, match="only node and edge rows can be gathered"):
            shard.gather(local(shard.x), group, role="replicated")

    run_ranks(2, rank)
