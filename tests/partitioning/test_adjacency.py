"""The graph that METIS is given: each neighbour once, in order, however few entries are made at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphshard.partitioning import adjacency as module
from graphshard.partitioning.adjacency import Ends, adjacency


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


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 2, 5, 40, 1 << 22]))
def test_rows_are_those_of_the_undirected_graph(
    data: st.DataObject, users: int, movies: int, at_once: int
) -> None:
    edges = [
        Ends(drawn(data, users, users)),
        Ends(drawn(data, users, movies), 0, users),
        Ends(drawn(data, movies, movies), users, users),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        starts, neighbours = adjacency(edges, users + movies)
    assert starts.dtype == neighbours.dtype == torch.int64
    rows = [part.tolist() for part in neighbours.tensor_split(starts[1:-1])]
    assert rows == neighbours_of(edges, users + movies)
