"""A graph that does not fit is one sentence that says what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local import local
from torch import Tensor

pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data, HeteroData

import graphshard
from graphshard import PartitionError, Role

X = torch.rand(40, 5)
EDGES = torch.stack([torch.arange(130) % 40, torch.arange(130) * 7 % 40])


def _hetero(rows: int, num_nodes: int | None = None) -> HeteroData:
    data = HeteroData()
    data["paper"].x, data["author"].x = torch.rand(rows, 3), torch.rand(30, 2)
    if num_nodes is not None:
        data["paper"].num_nodes = num_nodes
    data["author", "writes", "paper"].edge_index = torch.stack([EDGES[0] % 30, EDGES[1] % 20])
    return data


def _with(node: int) -> Tensor:
    return torch.cat([EDGES, torch.full((2, 1), node)], 1)


BAD: list[tuple[str, Any, str]] = [
    ("int32", Data(x=X, edge_index=EDGES.int()), r"must be int64 .*int32 \[2, 130\]: pass it as \.long\(\)"),
    ("float", {"x": X, "edge_index": EDGES.float()}, r"pass it as \.long\(\)"),
    ("[E, 2]", Data(x=X, edge_index=EDGES.t()), r"pass it as \.t\(\)\.contiguous\(\)(\n|$)"),
    ("[E, 2] int32", {"x": X, "edge_index": EDGES.t().int()}, r"\.t\(\)\.contiguous\(\)\.long\(\)"),
    ("dense", {"x": X, "edge_index": torch.ones(40, 40).long()}, "row 0 has the source of each edge, row 1"),
    ("past the nodes", Data(x=X, edge_index=_with(40)), r"is 40, .*40 nodes.*take the"),
    ("negative", Data(x=X, edge_index=_with(-1)), "is -1, .*take the edge out"),
    ("num_nodes too large", Data(x=X, edge_index=EDGES, num_nodes=50), "'x' has 40 rows, but the graph has 50 nodes"),
    ("num_nodes too small", Data(x=X, edge_index=EDGES % 30, num_nodes=30), "'x' has 40 rows, .* 30 nodes"),
    ("pos", Data(x=X, pos=torch.rand(39, 3), edge_index=EDGES), "'pos' has 39 rows, but the graph has 40 nodes"),
    ("edge_attr", Data(x=X, edge_attr=torch.rand(129, 3), edge_index=EDGES), "'edge_attr' has 129 rows, .* 130 edges"),
    ("type", _hetero(20, 25), r"\"x_dict\['paper'\]\" has 20 rows, but the graph has 25 nodes"),
    ("graphs", [Data(x=X, edge_index=EDGES)] * 2, r"a list of 2 graphs.*Batch\.from_data_list"),
    ("typed graphs", (_hetero(20), _hetero(20)), "a tuple of 2 graphs"),
    ("no node", Data(x=torch.rand(0, 5), edge_index=EDGES[:, :0]), "0 nodes cannot be partitioned"),
    ("no node of any type", {"x_dict": {"a": X[:0]}, "edge_index_dict": {("a", "to", "a"): EDGES[:, :0]}}, "0 nodes"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_one_sentence_that_says_what_to_do(data: Any, words: str) -> None:
    with pytest.raises(PartitionError, match=words) as caught:
        graphshard.partition(data, 2)
    assert "\n" not in str(caught.value)


def test_a_count_that_is_none_is_refused() -> None:
    for count in (-1, 2.5, "40", True):
        with pytest.raises(PartitionError, match="must be an int, at least 0, not"):
            graphshard.partition({"edge_index": EDGES[:, :0]}, 2, num_nodes=count)  # type: ignore[arg-type]


def test_a_stated_count_and_rows_of_a_mapping() -> None:
    with pytest.raises(PartitionError, match="'h' has 40 rows, but the graph has 50 nodes, as num_nodes"):
        graphshard.partition({"h": X, "edge_index": EDGES}, 2, num_nodes=50)
    with pytest.raises(PartitionError, match="'y' has 40 rows, but the graph has 50 nodes"):
        graphshard.partition({"h": torch.rand(50, 2), "y": X, "edge_index": EDGES}, 2, num_nodes=50)
    shard = graphshard.partition({"h": X, "edge_index": EDGES}, 2, num_nodes=50, roles={"h": "replicated"})[0]
    assert shard.roles["h"] is Role.REPLICATED
    assert graphshard.partition({"edge_index": EDGES}, 2, num_nodes=50)[0].num_nodes == 50
    small = graphshard.partition({"h": X, "w": torch.rand(7), "edge_index": EDGES}, 2)[0]
    assert small.roles["w"] is Role.REPLICATED


def test_what_is_none_is_left_out() -> None:
    shard = graphshard.partition({"x": X, "edge_index": EDGES, "edge_attr": None}, 2)[0]
    assert shard.edge_attr is None
    assert "edge_attr" not in shard


# ---- numbers of nodes -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 39), max_size=60), st.integers(1, 4), st.sampled_from(["train_idx", "seeds"]))
@settings(max_examples=20, deadline=None)
def test_an_index_is_cut_and_numbered_anew(numbers: list[int], parts: int, name: str) -> None:
    whole = torch.tensor(numbers, dtype=torch.int64)
    data = {"x": X, "edge_index": EDGES, name: whole}
    shards = graphshard.partition(data, parts, roles={name: "index", "x": "node"}, num_nodes=40)
    found = torch.full_like(whole, -1)
    for shard in shards:
        own, places = local(shard.tensors[name]), shard.edge_set(name).edge_ids
        found[places] = shard.node_set().owned_ids[own]
        assert torch.equal(local(shard.x)[own], X[whole[places]])
        assert (shard.num_edges, shard.roles[name]) == (130, Role.INDEX)
    assert torch.equal(found, whole)


def test_an_index_of_a_type_and_what_stands_beside_it() -> None:
    data = _hetero(20)
    data["paper"].train_idx = torch.tensor([3, 1, 19, 3])
    data["paper"].train_y = torch.tensor([0.5, 1.5, 2.5, 3.5])
    name = "train_idx_dict['paper']"
    roles = {name: "index:paper", "train_y_dict['paper']": f"edge:{name}"}
    for shard in graphshard.partition(data, 2, roles=roles):
        paper, places = shard["paper"], shard.edge_set(name).edge_ids
        assert torch.equal(paper.nodes.owned_ids[local(paper.train_idx)], data["paper"].train_idx[places])
        assert torch.equal(local(paper.train_y), data["paper"].train_y[places])
        assert shard.edge_types == [("author", "writes", "paper")]
    with pytest.raises(
        PartitionError, match="is an index of 'venue', but the node types are 'paper', 'author'"
    ):
        graphshard.partition(data, 2, roles=roles | {name: "index:venue"})


def test_an_index_is_saved_and_loaded(tmp_path: Any) -> None:
    data = {"x": X, "edge_index": EDGES, "train_idx": torch.tensor([5, 39, 0, 7])}
    shards = graphshard.partition(data, 2, roles={"train_idx": "index"})
    shards.save(tmp_path / "parts")
    for rank, shard in enumerate(shards):
        loaded = graphshard.load_shard(tmp_path / "parts", rank, 2)
        assert torch.equal(local(loaded.train_idx), local(shard.train_idx))
        assert torch.equal(loaded.edge_set("train_idx").edge_ids, shard.edge_set("train_idx").edge_ids)
        with pytest.raises(graphshard.ShardError, match="numbers of nodes, which partition"):
            loaded.train_idx = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([1, 4, 7]), r"\(int64 \[3\], values 1\.\.7\) may.*roles=\{'t': \"index\"\}.*\"replicated\""),
        (torch.tensor([1, 4], dtype=torch.int32), r"roles=\{'t': \"index\"\}"),
        (torch.tensor([[1, 4], [2, 5], [3, 39]]), "each row as a tensor of its own"),
    ],
)  # fmt: skip
def test_what_may_be_numbers_is_asked_for(value: Tensor, words: str) -> None:
    data = Data(x=X, edge_index=EDGES, t=value)
    with pytest.raises(PartitionError, match=words):
        graphshard.partition(data, 2)
    assert graphshard.partition(data, 1)[0].roles["t"] is Role.REPLICATED  # one part numbers nothing anew
    assert graphshard.partition(data, 2, roles={"t": "replicated"})[1].roles["t"] is Role.REPLICATED


def test_a_type_suggests_its_own_index() -> None:
    data = _hetero(20)
    data["paper"].split = torch.tensor([0, 19])
    with pytest.raises(PartitionError, match='"index:paper"'):
        graphshard.partition(data, 2)


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([-1, 4]),
        torch.tensor([1, 129, 40]),
        torch.tensor([400, 1000]),
        torch.tensor(3),
        torch.rand(3),
    ],
)
def test_what_cannot_be_numbers_is_not_asked_for(value: Tensor) -> None:
    shard = graphshard.partition(Data(x=X, edge_index=EDGES, t=value), 2)[0]
    assert shard.roles["t"] is Role.REPLICATED


def test_the_pointer_of_a_batch_is_none() -> None:
    batch = Batch.from_data_list([Data(x=X, edge_index=EDGES)] * 2)
    assert graphshard.partition(batch, 2)[0].roles == {
        "x": Role.NODE, "edge_index": Role.EDGE_INDEX, "batch": Role.NODE, "ptr": Role.REPLICATED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([1, 40]), r"t\[1\] is 40, but the graph has 40 nodes \(0\.\.39\)"),
        (torch.tensor([-1]), r"t\[0\] is -1"),
        (torch.tensor([[1, 2]]), r"must be int64 \[m\], not torch.int64 \[1, 2\]"),
        (torch.tensor([1.0]), r"convert it with \.long\(\)"),
    ],
)
def test_an_index_that_is_none_is_refused(value: Tensor, words: str) -> None:
    with pytest.raises(PartitionError, match=words):
        graphshard.partition(Data(x=X, edge_index=EDGES, t=value), 2, roles={"t": "index"})
