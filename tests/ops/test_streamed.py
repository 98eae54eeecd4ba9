"""Sums whose halo rows come in blocks of columns: the bits of a sync and a sum."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from support.local import local
from support.strategies import examples
from torch import Tensor

from graphshard import partition
from graphshard.errors import GraphshardError
from graphshard.kernels.interface import using
from graphshard.ops.aggregation import edge_structure, weighted_sum
from graphshard.ops.exchange import count_bytes, halo_sync
from graphshard.ops.streamed import Block, blocks, streamed_sum
from graphshard.testing import run_ranks

MANY = 10**9
"""So many nodes that a block is as narrow as it may be."""

SELF = (torch.tensor([2, 0, 2]), [3], [3], "")
"""One rank that exchanges with itself: its halo rows are copies of its own rows 2, 0, 2."""
EDGES = edge_structure(torch.tensor([1, 0, 1, 3, 0]), torch.tensor([2, 0, 5, 6, 5]), 4, 7)


@dataclass(frozen=True)
class Case:
    """A random graph, and what is summed over it: ``[heads, width]`` a node, weights for none, one or every head."""

    parts: int
    heads: int
    width: int
    weighted: bool
    scaled: bool
    dtype: torch.dtype
    seed: int


cases = st.builds(
    Case,
    parts=st.integers(1, 4),
    heads=st.integers(1, 9),
    width=st.sampled_from([1, 5, 16, 32, 33, 70]),
    weighted=st.booleans(),
    scaled=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 9),
)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@examples(15)
@given(case=cases)
def test_the_bits_of_a_sync_and_a_sum(kernels: str, case: Case) -> None:
    torch.manual_seed(case.seed)
    edge_index = torch.randint(0, 12, (2, 30))
    shards = partition(
        {"edge_index": edge_index}, case.parts, num_nodes=12, method=torch.randint(0, case.parts, (12,))
    )

    def rank(number: int, group: str, _: dist.ProcessGroup) -> None:
        shard = shards[number]
        halo, n = shard.halo, shard.num_owned
        src, dst = local(shard.edge_index)
        random = torch.Generator().manual_seed(number)
        plan = (halo.send_index, list(halo.send_splits), list(halo.recv_splits), group)
        structure = edge_structure(dst, src, n, n + sum(halo.recv_splits))
        shape = (n, case.heads, case.width) if case.heads > 1 else (n, case.width)
        x = torch.randn(shape, generator=random, dtype=case.dtype)
        scale = torch.rand(n, generator=random, dtype=case.dtype) if case.scaled else None
        edges = (src.size(0), case.heads)[: 1 + (case.heads > 1)]
        weight = torch.randn(edges, generator=random, dtype=case.dtype) if case.weighted else None
        cotangent = torch.randn(shape, generator=random, dtype=case.dtype)
        found = []
        with using(kernels):
            for nodes in (None, 12, MANY):
                leaves = [t.clone().requires_grad_() for t in (x, weight) if t is not None]
                w = leaves[1] if case.weighted else None
                if nodes is None:
                    out = weighted_sum(halo_sync(leaves[0], *plan), w, structure)
                    out = out if scale is None else out * scale.view(-1, *[1] * (x.dim() - 1))
                else:
                    out = streamed_sum(leaves[0], w, scale, structure, *plan, nodes)
                found.append([out.detach(), *torch.autograd.grad(out, leaves, cotangent)])
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))

    run_ranks(case.parts, rank)


@pytest.mark.parametrize("weight", [None, (5,), (5, 2)])
def test_gradients_of_any_order(weight: tuple[int, ...] | None) -> None:
    heads = 2 if weight == (5, 2) else 1
    x = torch.randn((4, 2, 33) if heads == 2 else (4, 34), dtype=torch.float64, requires_grad=True)
    w = None if weight is None else torch.randn(weight, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, *rest: Tensor) -> Tensor:
        out: Tensor = streamed_sum(x, rest[1] if len(rest) > 1 else None, rest[0], EDGES, *SELF, MANY)
        return out.sin()

    scale = torch.rand(4, dtype=torch.float64, requires_grad=True)
    leaves = (x, scale) if w is None else (x, scale, w)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize(("nodes", "blocks_wanted"), [(12, 1), (MANY, 3)])
def test_the_blocks_are_the_same_on_every_rank_and_send_each_number_once(
    nodes: int, blocks_wanted: int
) -> None:
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    shards = partition({"edge_index": edge_index}, 2, num_nodes=4, method=torch.tensor([0, 0, 1, 1]))

    def rank(number: int, group: str, _: dist.ProcessGroup) -> tuple[list[Block], int]:
        shard = shards[number]
        halo, n = shard.halo, shard.num_owned
        src, dst = local(shard.edge_index)
        plan = (halo.send_index, list(halo.send_splits), list(halo.recv_splits), group)
        structure = edge_structure(dst, src, n, n + sum(halo.recv_splits))
        with count_bytes() as counter:
            streamed_sum(torch.randn(n, 70), None, None, structure, *plan, nodes)
        return list(blocks(torch.empty(n, 1, 70), nodes, group)), counter.total

    (one, sent), other = run_ranks(2, rank)
    assert other == (one, sent)
    assert sent == shards[0].halo.send_index.numel() * 70 * 4
    assert len(one) == blocks_wanted
    assert [column for b in one for column in range(b.start, b.stop)] == list(range(70))


def test_no_row_and_no_column() -> None:
    nothing = edge_structure(*torch.empty(2, 0, dtype=torch.int64), 4, 4)
    plan = (torch.empty(0, dtype=torch.int64), [0], [0], "")
    assert streamed_sum(torch.ones(4, 0), None, None, nothing, *plan, MANY).shape == (4, 0)
    assert torch.equal(streamed_sum(torch.ones(4, 70), None, None, nothing, *plan, MANY), torch.zeros(4, 70))


def test_weights_of_another_dtype_are_refused() -> None:
    with pytest.raises(GraphshardError, match=r"tensors of one dtype, not torch\.float32 and torch\.float64"):
        streamed_sum(torch.ones(4, 3), torch.ones(5).double(), None, EDGES, *SELF, 4)
