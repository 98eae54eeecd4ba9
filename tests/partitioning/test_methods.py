"""Every partition method: a part for each node, balanced, the same for a seed, and few halo rows where it says so."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pymetis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.kernels.interface import using
from graphshard.partitioning import methods, multilevel
from graphshard.partitioning.adjacency import Ends, narrow_rows
from graphshard.partitioning.metis import metis
from graphshard.partitioning.multilevel import Block, RowsInMemory
from graphshard.partitioning.partition import partition
from graphshard.partitioning.problem import Problem
from graphshard.tools.bench.generate import Shape, power_law_graph

pytest.importorskip("numba")

COMPILED = ("metis-volume", "multilevel")
ALL = ("metis", *COMPILED, "rcb")


def followers(nodes: int = 1500, seed: int = 0) -> Tensor:
    """A directed graph in which few are read by many: what METIS, which counts cut edges, does not see."""
    random = torch.Generator().manual_seed(seed)
    count = nodes * 5
    popular = (torch.rand(count, generator=random).pow(3) * nodes).long()
    reader = torch.randint(nodes, (count,), generator=random)
    near = torch.rand(count, generator=random) < 0.6
    source = torch.where(near, (reader + torch.randint(1, 30, (count,), generator=random)) % nodes, popular)
    return torch.stack([source, reader])


def points(nodes: int = 900, seed: int = 0) -> dict[str, Tensor]:
    """Points on a sheet; each reads those nearest to it."""
    random = torch.Generator().manual_seed(seed)
    pos = torch.rand(nodes, 2, generator=random, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    near = torch.cdist(pos, pos).topk(7, largest=False).indices[:, 1:]
    index = torch.stack([near.flatten(), torch.arange(nodes).repeat_interleave(6)])
    return {"x": torch.zeros(nodes, 1), "pos": pos, "edge_index": index}


def test_metis_is_what_it_was() -> None:
    """On the undirected graph in order, weighted by in-degree + 1: shards of a seed stay."""
    index = followers()
    neighbours: list[set[int]] = [set() for _ in range(1500)]
    for a, b in index.T.tolist():
        if a != b:
            neighbours[a].add(b)
            neighbours[b].add(a)
    weights = (index[1].bincount(minlength=1500) + 1).tolist()
    _, parts = pymetis.part_graph(
        5, [sorted(one) for one in neighbours], vweights=weights, options=pymetis.Options(seed=7)
    )
    assert metis(index, 1500, 5, seed=7).tolist() == list(parts)
    with using("torch"):
        assert metis(index, 1500, 5, seed=7).tolist() == list(parts)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("parts", [2, 5, 16])
def test_every_node_has_a_part_and_parts_are_alike(method: str, parts: int) -> None:
    data = points()
    report = partition(data, parts, method=method).report
    assert sum(report.owned) == 900
    assert min(report.owned) > 0
    assert report.edge_balance < 1.13
    blind = partition(data, parts, method=torch.arange(900) % parts).report
    assert report.halo_nodes < blind.halo_nodes / 2.5


@pytest.mark.parametrize("method", ALL)
def test_a_seed_decides(method: str) -> None:
    data, threads = points(), torch.get_num_threads()
    first = partition(data, 4, method=method, seed=3).assignment
    try:
        torch.set_num_threads(3)
        assert torch.equal(partition(data, 4, method=method, seed=3).assignment, first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ALL)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_graph_is_cut(method: str, data: st.DataObject) -> None:
    """Self loops, parallel edges, isolated nodes, stars, more parts than nodes."""
    nodes, parts = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 16))
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, nodes - 1)] * 2), max_size=40))
    index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.contiguous()
    tensors = {"x": torch.zeros(nodes, 1), "pos": torch.ones(nodes, 3), "edge_index": index}
    shards = partition(tensors, parts, method=method, roles={"x": "node", "pos": "node"}, num_nodes=nodes)
    assert sum(shards.report.owned) == nodes


def test_volume_of_a_directed_graph_is_less_than_that_of_metis() -> None:
    data = {"x": torch.zeros(1500, 1), "edge_index": followers()}
    for parts in (2, 8):
        plain, refined = (partition(data, parts, method=m).report for m in ("metis", "metis-volume"))
        assert refined.halo_nodes < 0.95 * plain.halo_nodes
        assert refined.edge_balance < 1.1


@given(st.integers(0, 1 << 20), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_the_refinement_counts_halo_rows_exactly(seed: int, parts: int) -> None:
    """After it, what it keeps of needs is what a count finds, and no sweep makes halo rows more."""
    from graphshard.partitioning import loops
    from graphshard.partitioning.adjacency import READERS, READS

    random = np.random.default_rng(seed)
    nodes = 40
    index = torch.from_numpy(random.integers(0, nodes, (2, 120)))
    owner = random.integers(0, parts, nodes).astype(np.int32)
    ends, weights = [Ends(index)], np.ones(nodes, np.int64)
    read_starts, readers = narrow_rows(ends, nodes, READERS)
    starts, reads = narrow_rows(ends, nodes, READS)

    def needs_of() -> np.ndarray:
        found = np.zeros((nodes, parts), np.int32)
        for node in range(nodes):
            for reader in readers[read_starts[node] : read_starts[node + 1]]:
                found[node, owner[reader]] += 1
        return found

    def halo() -> int:
        found = needs_of() > 0
        found[np.arange(nodes), owner] = False
        return int(found.sum())

    needs = np.zeros(nodes * parts, np.int32)
    loops.count_needs(read_starts, readers, owner, parts, needs, 0, nodes)
    loads = np.bincount(owner, minlength=parts).astype(np.int64)
    before = halo()
    for _ in range(3):
        gains, moved = np.empty(parts, np.int32), np.zeros(1, np.int64)
        loops.refine_volume(starts, reads, weights, owner, loads, nodes, needs, gains, moved, 0, nodes)
        assert (needs.reshape(nodes, parts) == needs_of()).all()
        assert loads.tolist() == np.bincount(owner, minlength=parts).tolist()
        assert halo() <= before
        before = halo()


class Pieces(RowsInMemory):
    """The same rows, a few nodes at a time, as from a file."""

    def blocks(self):
        nodes = self.starts.size - 1
        for first in range(0, nodes, 97):
            last = min(first + 97, nodes)
            base = int(self.starts[first])
            yield Block(first, last, base, self.neighbours[base : self.starts[last]].copy())


def test_multilevel_does_not_depend_on_the_blocks() -> None:
    index = power_law_graph(Shape(2000, 20_000, 100))
    starts, neighbours = narrow_rows([Ends(index)], 2000)
    weights = (index[1].bincount(minlength=2000) + 1).numpy()
    found = []
    for rows in (RowsInMemory(starts, neighbours), Pieces(starts, neighbours)):
        labels = multilevel.join(rows, weights, 4)
        parts = multilevel.cut(rows, weights, labels, 4, 0)
        multilevel.refine(rows, weights, parts, 4)
        found.append(parts.tolist())
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


@pytest.mark.parametrize("few", [1 << 13, 10])
def test_the_graph_of_clusters_is_contracted_until_metis_takes_it(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multilevel, "_FEW", few)
    index = power_law_graph(Shape(2000, 20_000, 20))
    starts, neighbours = narrow_rows([Ends(index)], 2000)
    weights = (index[1].bincount(minlength=2000) + 1).numpy()
    rows = RowsInMemory(starts, neighbours)
    labels = multilevel.join(rows, weights, 4)
    between, sizes = multilevel.contracted(rows, weights, labels)
    assert sizes.tolist() == np.bincount(labels, weights).tolist()
    wanted = np.zeros((sizes.size, sizes.size), np.int64)
    np.add.at(wanted, (labels[index[0]], labels[index[1]]), 1)
    np.fill_diagonal(wanted, 0)
    found = np.zeros_like(wanted)
    rows_of = np.arange(sizes.size).repeat(np.diff(between.starts))
    np.add.at(found, (rows_of, between.neighbours), between.weights)
    assert (found == wanted).all()
    given: list[int] = []
    run = multilevel.metis.run

    def noted(*args: Any) -> Any:
        given.append(args[1].size)
        return run(*args)

    monkeypatch.setattr(multilevel.metis, "run", noted)
    multilevel.cut(rows, weights, labels, 4, 0)
    monkeypatch.setattr(multilevel, "_MOST_PAIRS", between.neighbours.size // 4)
    parts = multilevel.cut(rows, weights, labels, 4, 0)
    assert given[0] == between.neighbours.size > given[1]
    assert sorted(set(parts.tolist())) == [0, 1, 2, 3]


@pytest.mark.parametrize("few", [1 << 13, 10])
def test_clusters_that_do_not_fit_the_memory_are_said(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilevel, "_FEW", few)
    index = power_law_graph(Shape(2000, 20_000, 100))
    rows = RowsInMemory(*narrow_rows([Ends(index)], 2000))
    with pytest.raises(PartitionError, match="too many edges between its 2000 clusters"):
        multilevel.cut(rows, np.ones(2000, np.int64), np.arange(2000, dtype=np.int32), 4, 0, most=1 << 18)


def test_positions_are_the_tensor_that_is_named() -> None:
    data = points()
    data["where"] = data.pop("pos")
    with pytest.raises(PartitionError, match="'rcb' cuts space, and the data has no positions"):
        partition(data, 2, method="rcb")
    named = partition(data, 2, method="rcb", positions="where")
    assert named.report.halo_nodes < 60  # a cut across the long side
    with pytest.raises(PartitionError, match="positions='y' names no tensor with a row for each node"):
        partition(data, 2, method="rcb", positions="y")
    data["where"][5, 1] = float("nan")
    with pytest.raises(PartitionError, match="the position of node 5 is not finite"):
        partition(data, 2, method="rcb", positions="where")


@pytest.mark.parametrize("method", ALL)
def test_all_node_types_are_cut_as_one_graph(method: str) -> None:
    one = points(300)
    sheet, index = one["pos"], one["edge_index"]
    data: dict[str, dict[Any, Tensor]] = {
        "pos_dict": {"a": sheet, "b": sheet + 0.001},
        "edge_index_dict": {("a", "to", "b"): index, ("b", "to", "a"): index.flip(0)},
    }
    report = partition(data, 3, method=method).report
    assert {name: sum(counts) for name, counts in report.owned_by_type.items()} == {"a": 300, "b": 300}
    assert report.edge_balance < 1.15
    if method == "rcb":
        data["pos_dict"] = {"a": sheet, "b": torch.rand(300, 3)}
        with pytest.raises(PartitionError, match="2 and 3 coordinates in different node types"):
            partition(data, 3, method="rcb")


def test_auto_says_why() -> None:
    small = Problem((Ends(torch.zeros(2, 10, dtype=torch.int64)),), 5, 2, torch.ones(5, dtype=torch.int64))
    assert methods.choose(small)[0] == "metis-volume"
    index = torch.zeros(1, dtype=torch.int64).expand(2, 20_000_000)
    name, why = methods.choose(Problem((Ends(index),), 5, 2, small.weights))
    assert (name, "20000000 edges are more than" in why) == ("multilevel", True)
    assert methods.choose(Problem(small.edges, 1 << 27, 4, small.weights))[0] == "multilevel"
    with using("torch"):
        assert methods.choose(small)[0] == "metis"
        report = partition(points(), 3, method="auto").report
    assert report.method == "metis"
    assert "numba" in report.why


@pytest.mark.parametrize("method", COMPILED)
def test_without_numba_a_sentence_says_so(method: str) -> None:
    with using("torch"), pytest.raises(PartitionError, match=f"{method!r} needs numba: pip install"):
        partition(points(), 3, method=method)


def test_without_mt_kahypar_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtkahypar", None)
    with pytest.raises(PartitionError, match="needs Mt-KaHyPar: pip install 'graphshard\\[mtkahypar\\]'"):
        partition(points(), 3, method="mtkahypar")


def test_mt_kahypar_minimises_halo_rows() -> None:
    pytest.importorskip("mtkahypar")
    data = {"x": torch.zeros(1500, 1), "edge_index": followers()}
    plain, found = (partition(data, 4, method=m).report for m in ("metis", "mtkahypar"))
    assert sum(found.owned) == 1500
    assert found.halo_nodes < 0.9 * plain.halo_nodes
