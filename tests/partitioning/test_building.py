"""Shards of any graph, cut a few edges at a time, against a reference that is written with sets and loops."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphshard.graph.data import GraphData, as_graph_data
from graphshard.partitioning import numbering as module
from graphshard.partitioning.numbering import build_shard, number_nodes
from graphshard.shard.shard import Shard

WRITES, CITES = ("author", "writes", "paper"), ("paper", "cites", "paper")


@dataclass(repr=False)
class Whole:
    """A graph of two node types, and the part of each node."""

    counts: dict[str, int]
    edges: dict[tuple[str, str, str], Tensor]
    owners: dict[str, Tensor]
    parts: int

    def data(self) -> GraphData:
        papers = torch.arange(self.counts["paper"] * 2.0).view(-1, 2)
        return as_graph_data(
            {
                "x_dict": {"paper": papers},
                "edge_index_dict": self.edges,
                "w_dict": {WRITES: torch.arange(100.0, 100.0 + self.edges[WRITES].size(1))},
            },
            roles={
                "x_dict['paper']": "node:paper",
                "w_dict[('author', 'writes', 'paper')]": "edge:author__writes__paper",
            },
            num_nodes=self.counts,
        )


@st.composite
def wholes(draw: st.DrawFn) -> Whole:
    """Self loops, parallel edges, isolated nodes, empty parts, more parts than nodes, sets without edges."""
    counts = {"author": draw(st.integers(1, 7)), "paper": draw(st.integers(1, 7))}
    parts = draw(st.integers(1, 9))

    def numbers(below: int, size: int) -> list[int]:
        return draw(st.lists(st.integers(0, below - 1), min_size=size, max_size=size))

    edges = {}
    for kind in (WRITES, CITES):
        size = draw(st.integers(0, 25))
        ends = [numbers(counts[kind[0]], size), numbers(counts[kind[2]], size)]
        edges[kind] = torch.tensor(ends, dtype=torch.int64).view(2, size)
    owners = {name: torch.tensor(numbers(parts, count)) for name, count in counts.items()}
    return Whole(counts, edges, owners, parts)


def check_against_reference(shard: Shard, whole: Whole) -> None:
    rank, halos = shard.rank, {}
    for name, owner in whole.owners.items():
        read = [
            int(s)
            for kind, index in whole.edges.items()
            for s, d in index.T.tolist()
            if kind[0] == name and int(whole.owners[kind[2]][d]) == rank and int(owner[s]) != rank
        ]
        halo = sorted(set(read), key=lambda v: (int(owner[v]), v))
        owned = [v for v in range(len(owner)) if int(owner[v]) == rank]
        halos[name] = owned + halo
        held = shard.node_sets[name]
        assert held.node_ids[""].tolist() == halos[name]
        assert held.plans[""].recv_splits == tuple(
            sum(int(owner[v]) == part for v in halo) for part in range(whole.parts)
        )
    for kind, index in whole.edges.items():
        name = "__".join(kind)
        mine = [i for i, d in enumerate(index[1].tolist()) if int(whole.owners[kind[2]][d]) == rank]
        assert shard.edge_sets[name].edge_ids.tolist() == mine
        assert shard.edge_sets[name].edge_ids.dtype == torch.int64
        local = [[halos[kind[row and 2]].index(v) for v in index[row, mine].tolist()] for row in (0, 1)]
        assert shard.parts()[f"edge_index_dict[{kind}]"].tolist() == local
    owned_papers = halos["paper"][: shard.node_sets["paper"].num_owned]
    assert shard.parts()["x_dict['paper']"][:, 0].tolist() == [2.0 * v for v in owned_papers]
    ids = shard.edge_sets["__".join(WRITES)].edge_ids
    assert torch.equal(shard.parts()[f"w_dict[{WRITES}]"], 100.0 + ids)


@settings(max_examples=100, deadline=None)
@given(wholes(), st.sampled_from([1, 3, 1 << 22]))
def test_shards_are_those_of_the_reference(whole: Whole, at_once: int) -> None:
    data = whole.data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        numbering = number_nodes(data, whole.owners, whole.parts)
        shards = [build_shard(data, numbering, rank) for rank in range(whole.parts)]
    for shard in shards:
        check_against_reference(shard, whole)
    for name in whole.counts:  # what a rank sends is what the other lists
        for one in shards:
            sent = (
                one.node_sets[name]
                .plans[""]
                .send_index.split(list(one.node_sets[name].plans[""].send_splits))
            )
            for other in shards:
                held = other.node_sets[name]
                begin = held.num_owned + sum(held.plans[""].recv_splits[: one.rank])
                wanted = held.node_ids[""][begin : begin + held.plans[""].recv_splits[one.rank]]
                assert torch.equal(one.node_sets[name].node_ids[""][sent[other.rank]], wanted)


def test_positions_of_edges_are_held_in_four_bytes() -> None:
    data = as_graph_data({"x": torch.zeros(5, 1), "edge_index": torch.randint(5, (2, 40))}, None, 5)
    edges = number_nodes(data, {"": torch.tensor([0, 1, 1, 0, 1])}, 2).edges[""]
    assert {one.dtype for one in edges} == {torch.int32}
    assert len({one.untyped_storage().nbytes() for one in edges} - {4 * one.numel() for one in edges}) == 0
