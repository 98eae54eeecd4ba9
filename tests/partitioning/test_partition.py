"""Roles, assignments, local numbering and halos: every edge once, every halo row the right one."""

from __future__ import annotations

import time
import warnings

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local import local
from support.repository import SHARED_DATA
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.roles import Role, infer_member
from graphshard.graph.schema import Sizes
from graphshard.partitioning.partition import ShardedGraph, partition
from graphshard.tools.data.sources import load_data

DATA = SHARED_DATA


@st.composite
def split_graphs(draw: st.DrawFn) -> tuple[dict[str, Tensor], Tensor, int]:
    """Self loops, parallel edges, isolated nodes; any assignment, empty parts too."""
    nodes = draw(st.integers(1, 12))
    count = draw(st.integers(0, 30))
    parts = draw(st.integers(1, 5))
    node = st.integers(0, nodes - 1)
    ends = [draw(st.lists(node, min_size=count, max_size=count)) for _ in range(2)]
    owner = draw(st.lists(st.integers(0, parts - 1), min_size=nodes, max_size=nodes))
    tensors = {
        "x": torch.arange(nodes * 3, dtype=torch.float64).reshape(nodes, 3),
        "edge_index": torch.tensor(ends, dtype=torch.int64).reshape(2, count),
        "weight": torch.arange(count, dtype=torch.float32),
        "scale": torch.tensor(2.0),
    }
    return tensors, torch.tensor(owner), parts


ROLES = {"x": "node", "weight": Role.EDGE}


def exchange(shards: ShardedGraph, owned_rows: list[Tensor]) -> list[Tensor]:
    """The halo sync of all ranks in one thread: owned rows -> owned + halo rows."""
    sent = [
        rows[shard.halo.send_index].split(list(shard.halo.send_splits))
        for shard, rows in zip(shards, owned_rows, strict=True)
    ]
    return [
        torch.cat([rows, *(sent[source][rank] for source in range(len(shards)))])
        for rank, rows in enumerate(owned_rows)
    ]


@given(split_graphs())
@settings(max_examples=300, deadline=None)
def test_any_assignment_gives_consistent_shards(case: tuple[dict[str, Tensor], Tensor, int]) -> None:
    tensors, owner, parts = case
    edges = tensors["edge_index"]
    shards = partition(tensors, parts, method=owner, roles=ROLES, num_nodes=len(owner))  # type: ignore[arg-type]

    assert torch.equal(torch.cat([s.edge_ids for s in shards]).sort().values, torch.arange(edges.size(1)))
    assert torch.equal(
        torch.cat([s.node_ids[: s.num_owned] for s in shards]).sort().values, torch.arange(len(owner))
    )
    for shard in shards:
        owned, halo = shard.node_ids[: shard.num_owned], shard.node_ids[shard.num_owned :]
        assert bool((owner[owned] == shard.rank).all())
        assert owned.tolist() == sorted(owned.tolist())
        assert halo.tolist() == sorted(set(halo.tolist()), key=lambda v: (int(owner[v]), v))
        assert shard.edge_ids.tolist() == sorted(shard.edge_ids.tolist())
        assert torch.equal(shard.node_ids[local(shard.edge_index)], edges[:, shard.edge_ids])
        assert bool((local(shard.edge_index)[1] < shard.num_owned).all())
        assert set(halo.tolist()) <= set(edges[0, shard.edge_ids].tolist())
        assert torch.equal(local(shard.weight), tensors["weight"][shard.edge_ids])
        assert list(shard.halo.recv_splits) == torch.bincount(owner[halo], minlength=parts).tolist()
        assert torch.equal(local(shard.scale), tensors["scale"])
    for shard, rows in zip(shards, exchange(shards, [local(s.x) for s in shards]), strict=True):
        assert torch.equal(rows, tensors["x"][shard.node_ids])


@given(split_graphs())
@settings(max_examples=150, deadline=None)
def test_adjacency_shards_multiply_like_the_whole(case: tuple[dict[str, Tensor], Tensor, int]) -> None:
    tensors, owner, parts = case
    source, destination = tensors["edge_index"]
    nodes = len(owner)
    adjacency = torch.sparse_coo_tensor(
        torch.stack([destination, source]),
        tensors["weight"].double(),
        (nodes, nodes),
        check_invariants=True,
    )
    shards = partition(
        (tensors["x"], adjacency), parts, method=owner, roles={"0": "node", "1": "adjacency"}, num_nodes=nodes
    )
    expected = torch.sparse.mm(adjacency, tensors["x"])
    whole = exchange(shards, [local(shard.tensors["0"]) for shard in shards])
    for shard, rows in zip(shards, whole, strict=True):
        mine = local(shard.tensors["1"])
        assert mine.is_coalesced()
        assert mine.shape == (shard.num_owned, shard.num_owned + shard.num_halo)
        assert torch.equal(torch.sparse.mm(mine, rows), expected[shard.node_ids[: shard.num_owned]])
        assert shard.positional


def graph(nodes: int = 6) -> dict[str, Tensor]:
    ring = torch.arange(nodes)
    extra = torch.tensor([[0], [3]])
    edges = torch.cat([torch.stack([ring, (ring + 1) % nodes]), extra], dim=1)
    return {"x": torch.randn(nodes, 4), "edge_index": edges}


def test_csr_and_coo_adjacency_give_the_same_shards() -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 5.0]], dtype=torch.float16)
    coo = dense.to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says, once in a process, that CSR is in beta
        csr = dense.to_sparse_csr()
    owner = torch.tensor([0, 1, 0])
    for one, two in zip(partition([coo], 2, method=owner), partition([csr], 2, method=owner), strict=True):
        assert two.tensors["0"].layout is torch.sparse_coo
        assert two.tensors["0"].dtype == torch.float16
        assert torch.equal(local(one.tensors["0"]).to_dense(), local(two.tensors["0"]).to_dense())


def test_edge_index_beside_its_own_adjacency() -> None:
    data = graph()
    edges = data["edge_index"]
    data["adj"] = torch.sparse_coo_tensor(edges.flip(0), torch.ones(7), (6, 6), check_invariants=True)
    first = partition(data, 2)[0]
    assert int(first.adj.local().indices().size(1)) == first.num_local_edges
    data["adj"] = torch.sparse_coo_tensor(edges, torch.ones(7), (6, 6), check_invariants=True)
    with pytest.raises(PartitionError, match="'adj' and the data's other graph have different edges"):
        partition(data, 2)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 6, 9])
def test_metis_always_assigns(parts: int) -> None:
    data = graph()
    shards = partition(data, parts)
    assert torch.equal(shards.assignment, partition(data, parts).assignment)
    assert sum(shards.report.owned) == 6
    assert shards.report.num_parts == len(shards) == parts
    if parts >= 6:
        assert max(shards.report.owned) == 1


def test_graph_without_edges() -> None:
    shards = partition({"x": torch.ones(8, 1), "edge_index": torch.empty(2, 0, dtype=torch.int64)}, 4)
    assert shards.report.owned == (2, 2, 2, 2)
    assert shards.report.edge_balance == 1.0
    assert shards[0].edge_index.shape == (2, 0)


def test_report_counts() -> None:
    shards = partition(graph(), 2, method=torch.tensor([0, 0, 0, 1, 1, 1]))
    report = shards.report
    assert (report.edge_cut, report.halo_nodes, report.halo, report.edges) == (3, 3, (1, 2), (3, 4))
    assert report.replication_factor == 1.5
    assert report.edge_balance == pytest.approx(8 / 7)
    assert report.as_dict()["owned"] == [3, 3]
    assert "3 edges cut (42.9%)" in str(report)


def test_metis_balances_a_real_graph() -> None:
    if not (DATA / "planetoid").is_dir():
        pytest.skip(f"no real data at {DATA}")
    pytest.importorskip("torch_geometric.io")
    data = load_data(f"planetoid:Cora?root={DATA / 'planetoid'}")
    report = partition(data, 4).report
    assert report.edge_balance < 1.15
    assert report.edge_cut < 0.15 * report.num_edges
    blind = partition(data, 4, method=lambda edges, nodes, parts: torch.arange(nodes) % parts).report
    assert report.halo_nodes < blind.halo_nodes / 3


def test_a_million_edges_take_seconds() -> None:
    nodes = 50_000
    data = {
        "x": torch.randn(nodes, 4),
        "edge_index": torch.randint(nodes, (2, 1_000_000)),
        "w": torch.randn(1_000_000),
    }
    start = time.perf_counter()
    partition(data, 4, method=torch.randint(4, (nodes,)))
    assert time.perf_counter() - start < 5


def test_pyg_data() -> None:
    pyg = pytest.importorskip("torch_geometric.data")
    data = pyg.Data(**graph(), name="ring", train_mask=torch.ones(6, dtype=torch.bool))
    shard = partition(data, 2)[0]
    assert set(shard.roles) == {"x", "edge_index", "train_mask"}
    assert shard.train_mask.dtype == torch.bool
    with pytest.raises(PartitionError, match="no edge type"):
        partition(pyg.HeteroData(), 2)


def test_networkx() -> None:
    g = nx.Graph()
    g.add_node("b", h=[1.0, 2.0], label="text", some=1)
    g.add_node("a", h=[3.0, 4.0], label="text")
    g.add_edge("a", "b", w=5)
    g.add_edge("a", "a", w=6)
    shard = partition(g, 1)[0]
    assert shard.edge_index.tolist() == [[0, 1, 1], [1, 1, 0]]
    assert shard.w.tolist() == [5, 6, 5]
    assert shard.h.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert set(shard.tensors) == {"edge_index", "h", "w"}
    directed = partition(nx.DiGraph([(0, 1), (1, 2)]), 1)[0]
    assert directed.edge_index.tolist() == [[0, 1], [1, 2]]


def test_sequence_names_are_positions() -> None:
    data = graph()
    shard = partition((data["x"], data["edge_index"], torch.randn(7, 2), torch.tensor(3.0)), 2)[1]
    assert [role.value for role in shard.roles.values()] == ["node", "edge_index", "edge", "replicated"]
    assert list(shard.tensors) == ["0", "1", "2", "3"]


def infer_role(value: Tensor, nodes: int, edges: int, name: str) -> Role:
    return infer_member(value, Sizes({"": nodes}, {"": edges}), name).role


def test_infer_role_by_shape_alone() -> None:
    assert infer_role(torch.zeros(2, 7, dtype=torch.int64), 6, 7, "x") is Role.EDGE_INDEX
    assert infer_role(torch.zeros(2, 9, dtype=torch.int64), 6, 7, "x") is Role.PAIRS
    assert infer_role(torch.zeros(2, 7, dtype=torch.int32), 6, 7, "edge_index") is Role.REPLICATED
    assert infer_role(torch.zeros(6), 6, 7, "edge_weight") is Role.NODE
    assert infer_role(torch.tensor(6), 6, 7, "n") is Role.REPLICATED
    with pytest.raises(PartitionError, match=r"'t' .* ambiguous \('edge' or 'node'.*roles=\{'t'"):
        infer_role(torch.zeros(6), 6, 6, "t")
    with pytest.raises(PartitionError, match="'edge_index' or 'node'"):
        infer_role(torch.zeros(2, 7, dtype=torch.int64), 2, 7, "t")
    with pytest.raises(PartitionError, match="make it dense"):
        infer_role(torch.zeros(6, 5).to_sparse(), 6, 7, "t")


def test_users_tensors_are_left_alone() -> None:
    data = graph()
    data["x"].requires_grad_(True)
    data["table"] = torch.nn.Parameter(torch.ones(3))
    for shard in partition(data, 2, num_nodes=6):
        assert shard.table is not data["table"]
        assert not shard.table.requires_grad
        assert shard.x.is_leaf
    assert data["x"].requires_grad
    assert not hasattr(data["table"], "_graphshard")


BAD = [
    (
        {"x": torch.zeros(3, 1), "edge_index": torch.tensor([[0, 5], [1, 1]])},
        {"roles": {"x": "node"}},
        r"edge_index\[0, 1\] is 5.*3 nodes",
    ),
    ({"x": torch.zeros(3, 1), "edge_index": torch.tensor([[0], [-1]])}, {}, r"edge_index\[1, 0\] is -1"),
    (
        {"x": torch.zeros(3, 1), "edge_index": torch.zeros(2, 4)},
        {},
        r"must be int64 \[2, E\], not torch.float32",
    ),
    ({"x": torch.zeros(3, 1), "edge_index": torch.zeros(3, 2).long()}, {}, r"must be int64 \[2, E\]"),
    ({"x": torch.zeros(3, 1)}, {}, "the data holds no graph"),
    (
        {"a": torch.zeros(2, 4).long(), "b": torch.zeros(2, 5).long()},
        {},
        "'a', 'b' could each be the edge index",
    ),
    (
        {"x": torch.zeros(3, 1), "edge_index": torch.tensor([[0, 5], [1, 1]])},
        {},
        r"name nodes up to 5, .*\[3\] rows",
    ),
    (graph() | {"n": 3}, {}, "'n' is a int, not a tensor"),
    (graph() | {"t": torch.zeros(9)}, {"num_nodes": None}, "number of nodes cannot be told"),
    (graph(), {"roles": {"y": "node"}}, "roles names 'y', but the data has only x, edge_index"),
    (graph(), {"roles": {"x": "vertex"}}, "'vertex' given for 'x' is not one of"),
    (graph(), {"roles": {"x": "edge"}, "num_nodes": 6}, "must be dense with 7 rows"),
    (graph(), {"num_parts": 0}, "num_parts must be at least 1"),
    (graph(), {"num_parts": 1.5}, "num_parts must be an int"),
    (graph(), {"method": "random"}, "no partition method 'random'"),
    (graph(), {"method": torch.zeros(5).long()}, "int64 tensor of 6 part ids"),
    (graph(), {"method": torch.zeros(6)}, r"not torch.float32 \[6\]"),
    (graph(), {"method": lambda *_: [0] * 6}, "not list"),
    (
        graph(),
        {"method": torch.tensor([0, 1, 2, 0, 0, 0])},
        r"node 2 is assigned to part 2, but parts are 0\.\.1",
    ),
    (graph(), {"method": torch.tensor([0, -1, 1, 0, 0, 0])}, "node 1 is assigned to part -1"),
    ({"edge_index": torch.zeros(2, 0).long()}, {"num_nodes": 0}, "0 nodes cannot be partitioned"),
    (3, {}, "cannot read a graph from int"),
]


@pytest.mark.parametrize(("data", "options", "message"), BAD, ids=[case[2][:30] for case in BAD])
def test_bad_input_is_one_clear_sentence(data: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        partition(data, **{"num_parts": 2, **options})  # type: ignore[arg-type]
