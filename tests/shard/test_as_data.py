"""A shard is read as the PyG ``Data`` or ``HeteroData`` that it was cut from, and its rows are assigned as a Data's."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("torch_geometric")

from torch_geometric.data import Data, HeteroData

import graphshard
from graphshard import ShardError
from graphshard.testing import run_ranks


def _data(nodes: int = 12, edges: int = 30, seed: int = 0) -> Data:
    random = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(nodes, 5, generator=random, dtype=torch.float64),
        edge_index=torch.randint(nodes, (2, edges), generator=random),
        y=torch.randint(3, (nodes,), generator=random),
        train_mask=torch.rand(nodes, generator=random) < 0.5,
    )


def _hetero() -> HeteroData:
    random = torch.Generator().manual_seed(0)
    data = HeteroData()
    data["paper"].x = torch.randn(12, 5, generator=random)
    data["paper"].train_mask = torch.rand(12, generator=random) < 0.5
    data["author"].x = torch.randn(7, 4, generator=random)
    data["venue"].num_nodes = 3
    ends = torch.randint(7, (20,), generator=random), torch.randint(12, (20,), generator=random)
    data["author", "writes", "paper"].edge_index = torch.stack(ends)
    data["author", "writes", "paper"].edge_attr = torch.randn(20, 2, generator=random)
    data["paper", "in", "venue"].edge_index = torch.stack(
        [torch.arange(12), torch.randint(3, (12,), generator=random)]
    )
    return data


READS: dict[str, Callable[[Any], object]] = {
    "num_features": lambda d: d.num_features,
    "num_node_features": lambda d: d.num_node_features,
    "num_edge_features": lambda d: d.num_edge_features,
    "num_nodes": lambda d: d.num_nodes,
    "num_edges": lambda d: d.num_edges,
    "x in data": lambda d: ("x" in d, "edge_weight" in d, "z" in d),
    "keys": lambda d: sorted(d.keys()),
    "len": len,
    "None": lambda d: (d.edge_attr, d.edge_weight, d.pos, d.batch, d.time, d.face),
    "getattr": lambda d: (getattr(d, "edge_attr", 1), getattr(d, "z", 1)),
    "width": lambda d: (d["x"].size(1), d.x.dtype, d["edge_index"].size(0)),
    "call": lambda d: [name for name, _ in d("train_mask", "z", "x")],
    "call of all": lambda d: sorted(name for name, _ in d()),
    "iteration": lambda d: sorted(name for name, value in d if isinstance(value, Tensor)),
    "dict": lambda d: sorted(d.to_dict()),
    "attributes": lambda d: (d.is_node_attr("y"), d.is_edge_attr("edge_index"), d.is_edge_attr("y")),
    "device": lambda d: (d.is_cuda, d.cpu().x.device, d.to("cpu", non_blocking=True).x.device),
}
TYPED: dict[str, Callable[[Any], object]] = {
    "metadata": lambda d: d.metadata(),
    "node_types": lambda d: d.node_types,
    "edge_types": lambda d: d.edge_types,
    "num_features": lambda d: (d.num_features, d.num_node_features),
    "num_edge_features": lambda d: d.num_edge_features,
    "num_nodes": lambda d: (d.num_nodes, d.num_edges),
    "of a type": lambda d: [d[t].num_nodes for t in d.node_types] + [d[t].num_edges for t in d.edge_types],
    "width": lambda d: (d["paper"].num_features, d["venue"].num_features, d["writes"].num_edge_features),
    "x of a type": lambda d: (d["paper"].x.size(1), d["paper"]["x"].size(1), d["author"]["x"].dim()),
    "in a type": lambda d: ("x" in d["paper"], "x" in d["venue"], "edge_attr" in d["author", "paper"]),
    "dicts": lambda d: ({k: v.size(1) for k, v in d.x_dict.items()}, list(d.edge_index_dict)),
    "collect": lambda d: (list(d.collect("x")), list(d.train_mask_dict)),
    "in": lambda d: ("x" in d, "edge_attr" in d, "z" in d, "paper" in d),
    "keys": lambda d: sorted(set(d.keys()) - {"num_nodes"}),
    "keys of a type": lambda d: (sorted(d["paper"].keys()), sorted(d["writes"].keys())),
}


def _saved(shards: graphshard.ShardedGraph, folder: Path) -> list[graphshard.Shard]:
    shards.save(folder / "parts")
    return [graphshard.load_shard(folder / "parts", rank, len(shards)) for rank in range(len(shards))]


@pytest.mark.parametrize("parts", [1, 3])
def test_reads_are_those_of_the_data(parts: int, tmp_path: Path) -> None:
    for data, reads in ((_data(), READS), (_hetero(), TYPED)):
        shards = graphshard.partition(data, parts)
        for shard in (*shards, *_saved(shards, tmp_path), copy.deepcopy(shards[0]), shards[0].to("cpu")):
            for name, read in reads.items():
                assert read(shard) == read(data), name


@given(st.integers(2, 20), st.integers(0, 40), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_sizes_are_the_graphs_whatever_a_rank_holds(nodes: int, edges: int, parts: int) -> None:
    data = _data(nodes, edges)
    roles = {"x": "node", "y": "node", "train_mask": "node"}
    for shard in graphshard.partition(data, parts, roles=roles, num_nodes=nodes):
        for name in ("num_features", "num_nodes", "num_edges", "width", "None"):
            assert READS[name](shard) == READS[name](data)


def test_what_a_rank_cannot_know_says_where_it_is_known() -> None:
    shard, typed = graphshard.partition(_data(), 2)[0], graphshard.partition(_hetero(), 2)[0]
    for name in ("is_undirected", "has_self_loops", "has_isolated_nodes", "coalesce", "to_homogeneous"):
        with pytest.raises(AttributeError, match=f"no '{name}' as a PyG Data.*before partition"):
            getattr(shard, name)
    with pytest.raises(
        AttributeError, match=r"no tensor 'num_classes'; it has x, edge_index.*stay with the data"
    ):
        _ = shard.num_classes
    with pytest.raises(AttributeError, match="homogeneous graph, which has no node_types"):
        shard.metadata()
    with pytest.raises(ShardError, match="no tensor 'z'"):
        _ = shard["z"]
    with pytest.raises(AttributeError, match=r"no tensor 'z'.*shard\[type\]"):
        _ = typed.z
    with pytest.raises(ShardError, match="not one type of this shard; it has paper, author, venue"):
        _ = typed["conference"]
    with pytest.raises(ShardError, match="no tensor 'z'"):
        _ = typed["paper"]["z"]
    assert not hasattr(shard, "__array__")
    assert bool(graphshard.partition({"edge_index": torch.zeros(2, 1, dtype=torch.int64)}, 1, num_nodes=2)[0])


def test_a_shard_is_not_cut_again() -> None:
    shards = graphshard.partition(_data(), 2)
    for cut in (shards, shards[0]):
        with pytest.raises(graphshard.PartitionError, match="is cut already"):
            graphshard.partition(cut, 2)


# ---- assignment ------------------------------------------------------------------------------------------------


class Weighted(nn.Module):
    """Sums of neighbours with an optional weight of each edge and an optional offset of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(5, 3, dtype=torch.float64)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None, offset: Tensor | None = None
    ) -> Tensor:
        h = self.lin(x)
        rows = h[edge_index[0]] if edge_weight is None else h[edge_index[0]] * edge_weight.unsqueeze(-1)
        h = h.index_add(0, edge_index[1], rows)
        return h if offset is None else h + offset.unsqueeze(-1)


def _change(data: Any, *, weight: Tensor, offset: Tensor) -> None:
    """As a script changes a Data after loading it."""
    data.x = nn.functional.normalize(data.x, dim=1)
    data["edge_weight"] = weight
    data.offset = offset
    data.x = data.x * 2
    del data.y


@pytest.mark.parametrize("method", ["metis", torch.arange(12) % 3])
def test_forward_sees_what_is_assigned(method: Any) -> None:
    random = torch.Generator().manual_seed(1)
    weight, offset = torch.rand(30, generator=random).double(), torch.rand(12, generator=random).double()
    data, shards, model = _data(), graphshard.partition(_data(), 3, method=method), Weighted()
    models = [copy.deepcopy(model) for _ in shards]
    _change(data, weight=weight, offset=offset)
    expected = model(data.x, data.edge_index, data.edge_weight, data.offset)

    def on_rank(rank: int, _: object, group: Any) -> Tensor:
        shard, ours = shards[rank], graphshard.distribute(models[rank], group=group)
        ours(shard)  # constants of the old rows are kept from here on
        _change(shard, weight=shard.scatter(weight, "edge"), offset=shard.scatter(offset, "node"))
        assert (shard.y, "y" in shard, shard.is_node_attr("offset")) == (None, False, True)
        return ours(shard).detach().local()  # type: ignore[no-any-return]

    for shard, found in zip(shards, run_ranks(3, on_rank), strict=True):
        torch.testing.assert_close(found, expected.detach()[shard.node_set().owned_ids], rtol=1e-9, atol=1e-9)


def test_what_is_assigned_is_kept_with_its_gradient() -> None:
    shard = graphshard.partition(_data(), 1)[0]
    x = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    shard.x = x
    assert shard.x is x
    graphshard.distribute(Weighted())(shard).sum().backward()
    assert x.grad is not None
    for other in (copy.deepcopy(shard), pickle.loads(pickle.dumps(shard)), shard.to(torch.float64)):
        assert torch.equal(other.x, x)


def test_a_type_of_a_heterogeneous_shard_is_assigned_alike() -> None:
    for shard in graphshard.partition(_hetero(), 2):
        paper = shard["paper"]
        paper.x = paper.x.double()
        paper.depth = torch.zeros(shard.node_set("paper").num_owned)
        shard["writes"]["edge_weight"] = torch.ones_like(shard["writes"].edge_attr[:, 0])
        assert shard.x_dict["paper"].dtype == torch.float64
        assert list(shard.depth_dict) == ["paper"]
        assert list(shard.edge_weight_dict) == [("author", "writes", "paper")]
        with pytest.raises(ShardError, match=r"shard\['paper'\]\.x takes one row for each of this rank's"):
            paper.x = torch.zeros(99, 5)
        with pytest.raises(ShardError, match="cannot be assigned"):
            paper.num_nodes = 3


def test_what_is_no_rows_of_the_shard_is_refused() -> None:
    one, other = graphshard.partition(_data(), 2)
    rows = one.num_owned
    for value, words in {
        torch.zeros(
            99, 5
        ): rf"shard\.x takes one row for each of this rank's {rows} nodes, not .*\[99, 5\].*scatter",
        torch.tensor(1.0): r"not a tensor of shape \[\]",
        other.x: "not a tensor of another shard",
        one.edge_index: "is a node tensor, but what is assigned is a edge_index",
    }.items():
        with pytest.raises(ShardError, match=words):
            one.x = value
    for name, value, words in (
        ("x", [1.0], "takes a tensor with this rank's rows, not a list"),
        ("z", 3, "not a int"),
        ("z", torch.zeros(99), rf"is not rows of this shard, which has {rows} nodes and .* edges.*scatter"),
        ("edge_index", torch.zeros(2, 9, dtype=torch.int64), "holds edges, along which the shards were cut"),
        ("edge_index", None, "cannot be taken away"),
        ("rank", 3, "is what partition\\(\\) made and cannot be assigned"),
        ("tensors", {}, "cannot be assigned"),
        ("num_nodes", 3, "pass num_nodes= to partition"),
        ("num_features", 3, "cannot be assigned"),
    ):
        with pytest.raises(ShardError, match=words):
            setattr(one, name, value)
    assert (one.rank, one.x.local().size(0)) == (0, rows)
    with pytest.raises(ShardError, match="given the role 'node:paper'"):
        one.put("z", torch.zeros(rows), role="node:paper")
    one.put("z", torch.zeros(99), role="replicated")
    assert one.roles["z"].value == "replicated"


def test_a_doubtful_new_tensor_needs_its_role() -> None:
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    shard = graphshard.partition({"x": torch.zeros(4, 2), "edge_index": edges}, 1, roles={"x": "node"})[0]
    with pytest.raises(ShardError, match="could be 'edge' or 'node' rows: say which"):
        shard.w = torch.zeros(4)
    shard.put("w", torch.zeros(4), role="edge")
    assert shard.is_edge_attr("w")


def test_shards_that_were_changed_differently_are_not_saved(tmp_path: Path) -> None:
    shards = graphshard.partition(_data(), 2)
    shards[1].x = shards[1].x[:, :2]
    with pytest.raises(ShardError, match=r"'x' is .* on rank 0 but .* on rank 1"):
        shards.save(tmp_path / "parts")
    shards[0].x = shards[0].x[:, :2]
    shards.save(tmp_path / "parts")
    assert graphshard.load_shard(tmp_path / "parts", 1, 2).num_features == 2
