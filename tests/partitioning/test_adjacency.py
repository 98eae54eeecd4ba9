"""The graph that METIS is given: each neighbour once, in order, however few entries are made at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphshard.kernels.interface import using
from graphshard.partitioning import adjacency as module
from graphshard.partitioning.adjacency import READERS, READS, Ends, adjacency, narrow_rows


def neighbours_of(edges: list[Ends], num_nodes: int) -> list[list[int]]:
    found: list[set[int]] = [set() for _ in range(num_nodes)]
    for ends in edges:
        for a, b in (ends.index + torch.tensor([[ends.source], [ends.destination]])).T.tolist():
            if a != b:
                found[a].add(b)
                found[b].add(a)
    return [sorted(one) for one in found]


def drawn(data: st.DataObject, sources: int, destinations: int) -> Tensor:
    count = data.draw(st.integers(0, 30))
    rows = [
        data.draw(st.lists(st.integers(0, n - 1), min_size=count, max_size=count))
        for n in (sources, destinations)
    ]
    return torch.tensor(rows, dtype=torch.int64).view(2, -1)


def drawn_sets(data: st.DataObject, users: int, movies: int) -> list[Ends]:
    return [
        Ends(drawn(data, users, users)),
        Ends(drawn(data, users, movies), 0, users),
        Ends(drawn(data, movies, movies), users, users),
    ]


def as_lists(starts: Tensor, neighbours: Tensor) -> list[list[int]]:
    return [part.tolist() for part in neighbours.tensor_split(starts[1:-1])]


@settings(max_examples=80, deadline=None)
@given(
    st.data(),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([1, 2, 5, 40, 1 << 22]),
    st.sampled_from(["numba", "torch"]),
)
def test_rows_are_those_of_the_undirected_graph(
    data: st.DataObject, users: int, movies: int, at_once: int, kernels: str
) -> None:
    edges = drawn_sets(data, users, movies)
    with pytest.MonkeyPatch.context() as patch, using(kernels):
        patch.setattr(module, "_AT_ONCE", at_once)
        starts, neighbours = adjacency(edges, users + movies)
    assert starts.dtype == neighbours.dtype == torch.int64
    assert as_lists(starts, neighbours) == neighbours_of(edges, users + movies)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 5))
def test_rows_of_one_direction(data: st.DataObject, users: int, movies: int) -> None:
    pytest.importorskip("numba")
    edges, nodes = drawn_sets(data, users, movies), users + movies
    for of, key in ((READERS, 0), (READS, 1)):
        found: list[set[int]] = [set() for _ in range(nodes)]
        for ends in edges:
            for pair in (ends.index + torch.tensor([[ends.source], [ends.destination]])).T.tolist():
                if pair[0] != pair[1]:
                    found[pair[key]].add(pair[1 - key])
        starts, rows = narrow_rows(edges, nodes, of)
        assert rows.dtype.itemsize == 4
        assert as_lists(torch.from_numpy(starts), torch.from_numpy(rows)) == [sorted(one) for one in found]
