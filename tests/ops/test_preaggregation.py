"""Sums of which other ranks make a part: equal to those of raw rows, in the fewest rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import networkx as nx
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
from graphshard.ops import preaggregation as module
from graphshard.ops.aggregation import edge_structure, weighted_sum
from graphshard.ops.covers import minimum_vertex_cover
from graphshard.ops.exchange import count_bytes, halo_sync
from graphshard.ops.preaggregation import Preaggregation, preaggregation
from graphshard.ops.streamed import streamed_sum
from graphshard.testing import run_ranks

ALWAYS, SOMETIMES, NEVER = 1e9, 2.0, 0.0
"""How many terms of sums a row is worth: so many that each saved one is taken, a few, none."""
NODES = 12


# ---- the cover -----------------------------------------------------------------------------------------------

edge_lists = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 6)), max_size=30)


@examples(60)
@given(edges=edge_lists)
def test_every_edge_is_covered_by_as_few_nodes_as_a_largest_matching_has_edges(
    edges: list[tuple[int, int]],
) -> None:
    ends = torch.tensor(edges, dtype=torch.int64).view(-1, 2)
    destinations, sources = minimum_vertex_cover(ends[:, 0], ends[:, 1], 8, 7)
    assert (destinations[ends[:, 0]] | sources[ends[:, 1]]).all()
    assert destinations.sum() + sources.sum() == _matching(edges)


def _matching(edges: list[tuple[int, int]]) -> int:
    """The size of a largest matching, by other code."""
    graph = nx.Graph((("to", d), ("from", s)) for d, s in edges)
    top = [node for node in graph if node[0] == "to"]
    return len(nx.bipartite.hopcroft_karp_matching(graph, top)) // 2


@examples(30)
@given(edges=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_no_minimum_cover_has_more_destinations(edges: list[tuple[int, int]]) -> None:
    ends = torch.tensor(edges, dtype=torch.int64)
    destinations, sources = minimum_vertex_cover(ends[:, 0], ends[:, 1], 4, 4)
    least, most = 9, 0
    for chosen in range(256):  # every set of the eight nodes
        if all(chosen >> d & 1 or chosen >> (4 + s) & 1 for d, s in edges):
            size, sums = chosen.bit_count(), (chosen & 15).bit_count()
            least, most = min((least, -most), (size, -sums))[0], max((-least, most), (-size, sums))[1]
    assert destinations.sum() + sources.sum() == least
    assert destinations.sum() == most


def test_nothing_covers_no_edge() -> None:
    none = torch.empty(0, dtype=torch.int64)
    destinations, sources = minimum_vertex_cover(none, none, 3, 0)
    assert destinations.tolist() == [False] * 3
    assert sources.tolist() == []


# ---- the sum -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A random graph with self loops, parallel edges and isolated nodes, in parts of which some may be empty."""

    parts: int
    edges: int
    heads: int
    width: int
    weighted: bool
    scaled: bool
    seed: int

    def edge_index(self) -> Tensor:
        random = torch.Generator().manual_seed(self.seed)
        ends = torch.rand(2, self.edges, generator=random).square() * NODES  # the first nodes have most edges
        return ends.long()


cases = st.builds(
    Case,
    parts=st.integers(1, 5),
    edges=st.sampled_from([0, 1, 20, 60]),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 5, 40]),
    weighted=st.booleans(),
    scaled=st.booleans(),
    seed=st.integers(0, 99),
)


def whole(case: Case) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows of all nodes, weights of all edges, scales of all nodes."""
    random = torch.Generator().manual_seed(case.seed)
    shape = (NODES, case.heads, case.width) if case.heads > 1 else (NODES, case.width)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    scale = torch.rand(NODES, generator=random, dtype=torch.float64)
    weight = torch.randn((case.edges, case.heads)[: 1 + (case.heads > 1)], generator=random).double()
    return x, weight if case.weighted else None, scale if case.scaled else None


def cut(case: Case) -> Any:
    random = torch.Generator().manual_seed(case.seed)
    assignment = torch.randint(0, case.parts, (NODES,), generator=random)
    return partition({"edge_index": case.edge_index()}, case.parts, num_nodes=NODES, method=assignment)


def plan_of(shard: Any, group: str) -> tuple[list[Tensor], tuple[Any, ...]]:
    """The structure of a rank's edges, and its halo plan."""
    halo, n = shard.halo, shard.num_owned
    src, dst = local(shard.edge_index)
    plan = (halo.send_index, list(halo.send_splits), list(halo.recv_splits), group)
    return edge_structure(dst, src, n, n + sum(halo.recv_splits)), plan


def derived(x: Tensor, out: Tensor) -> list[Tensor]:
    """A sum, and what a loss of it has as first and second derivatives."""
    (to_x,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(to_x.square().sum(), x)
    return [out.detach(), to_x.detach(), again]


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@examples(25)
@given(case=cases)
def test_sums_and_derivatives_of_two_orders_are_those_of_one_machine(kernels: str, case: Case) -> None:
    x, weight, scale = whole(case)
    source, destination = case.edge_index()
    x.requires_grad_()
    alone = weighted_sum(x, weight, edge_structure(destination, source, NODES, NODES))
    wanted = derived(x, alone if scale is None else alone * scale.view(-1, *[1] * (x.dim() - 1)))
    shards = cut(case)

    def rank(number: int, group: str, _: dist.ProcessGroup) -> None:
        structure, plan = plan_of(shards[number], group)
        own, edges = shards[number].node_sets[""].owned_ids, shards[number].edge_sets[""].edge_ids
        weights, scales = weight if weight is None else weight[edges], scale if scale is None else scale[own]
        rows = x.detach()[own].requires_grad_()
        with using(kernels):
            for worth in (ALWAYS, SOMETIMES, NEVER):
                made = preaggregation(weights, structure, *plan, worth)
                for nodes in (NODES, 10**9):  # one block, and the narrowest
                    out = streamed_sum(rows, None, scales, made, *plan, nodes)
                    for ours, theirs in zip(derived(rows, out), wanted, strict=True):
                        torch.testing.assert_close(ours, theirs[own], rtol=1e-11, atol=1e-11)

    run_ranks(case.parts, rank)


@examples(10)
@given(case=cases)
def test_raw_rows_alone_give_the_bits_of_a_sync_and_a_sum(case: Case) -> None:
    x, weight, _ = whole(case)
    shards = cut(case)

    def rank(number: int, group: str, _: dist.ProcessGroup) -> None:
        structure, plan = plan_of(shards[number], group)
        own, edges = shards[number].node_sets[""].owned_ids, shards[number].edge_sets[""].edge_ids
        weights = weight if weight is None else weight[edges]
        rows = x[own].requires_grad_()
        made = preaggregation(weights, structure, *plan, NEVER)
        ours, theirs = (
            derived(rows, streamed_sum(rows, None, None, made, *plan, NODES)),
            derived(rows, weighted_sum(halo_sync(rows, *plan), weights, structure)),
        )
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    run_ranks(case.parts, rank)


@examples(15)
@given(case=cases)
def test_as_many_rows_travel_as_the_covers_have_nodes(case: Case) -> None:
    shards = cut(case)
    owner = torch.empty(NODES, dtype=torch.int64)
    for shard in shards:
        owner[shard.node_sets[""].owned_ids] = shard.rank
    source, destination = case.edge_index()
    least = 0
    for a in range(case.parts):
        for b in range(case.parts):
            between = (owner[source] == a) & (owner[destination] == b) & (a != b)
            pairs = zip(destination[between].tolist(), source[between].tolist(), strict=True)
            least += _matching(list(pairs))

    def rank(number: int, group: str, _: dist.ProcessGroup) -> tuple[int, int]:
        structure, plan = plan_of(shards[number], group)
        made = preaggregation(None, structure, *plan, ALWAYS)
        rows = torch.randn(shards[number].num_owned, 3, requires_grad=True)
        with count_bytes() as forward:
            out = streamed_sum(rows, None, None, made, *plan, NODES)
        with count_bytes() as backward:
            out.sum().backward()
        return forward.halo_bytes // 12, backward.halo_bytes // 12

    for counts in zip(*run_ranks(case.parts, rank), strict=True):
        assert sum(counts) == least


def test_a_hub_that_others_read_is_sent_and_a_node_that_reads_many_gets_a_sum() -> None:
    """Rank 0 owns 0 to 3, rank 1 the others: 0 is read by four, and 8 reads four."""
    edges = [(0, node) for node in (4, 5, 6, 7)] + [(node, 8) for node in (0, 1, 2, 3)]
    edge_index = torch.tensor(edges).t()
    shards = partition(
        {"edge_index": edge_index}, 2, num_nodes=9, method=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    )

    def rank(number: int, group: str, _: dist.ProcessGroup) -> list[list[int]]:
        structure, plan = plan_of(shards[number], group)
        made = Preaggregation.of(preaggregation(None, structure, *plan, ALWAYS))
        start, other = made.forward.sent[:2]
        return [
            sorted(other[a:b].tolist()) for a, b in zip(start[:-1].tolist(), start[1:].tolist(), strict=True)
        ]

    sent, nothing = run_ranks(2, rank)
    assert nothing == []
    assert sent == [[0], [1, 2, 3]]  # the hub's row serves 8 as well


def test_weights_of_another_dtype_are_refused() -> None:
    ones = torch.ones(5, dtype=torch.float64)
    made = preaggregation(ones, EDGES, *SELF, ALWAYS)
    with pytest.raises(GraphshardError, match=r"tensors of one dtype, not torch\.float32 and torch\.float64"):
        streamed_sum(torch.ones(4, 3), None, None, made, *SELF, 4)


SELF = (torch.tensor([2, 0, 2]), [3], [3], "")
"""One rank that exchanges with itself: its halo rows are copies of its own rows 2, 0, 2."""
EDGES = edge_structure(torch.tensor([1, 0, 1, 3, 0]), torch.tensor([2, 0, 5, 6, 5]), 4, 7)


@examples(5)
@given(case=cases)
def test_edges_that_are_sorted_piece_by_piece_are_as_if_at_once(case: Case) -> None:
    _, weight, _ = whole(case)
    shards = cut(case)

    def rank(number: int, group: str, _: dist.ProcessGroup) -> list[Tensor]:
        structure, plan = plan_of(shards[number], group)
        edges = shards[number].edge_sets[""].edge_ids
        made: list[Tensor] = preaggregation(
            None if weight is None else weight[edges], structure, *plan, ALWAYS
        )
        return made

    at_once = run_ranks(case.parts, rank)
    with mock.patch.object(module, "_PIECE", 3):
        by_pieces = run_ranks(case.parts, rank)
    for one, other in zip(at_once, by_pieces, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
