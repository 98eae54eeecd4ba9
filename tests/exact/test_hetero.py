"""Heterogeneous graphs: every model on any partition computes what one machine does."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from support.equality import Compilations
from support.hetero_cases import EDGE_TYPES, HeteroCase, fixed_hetero, hetero_cases, make_hetero, owners
from support.local import local
from support.strategies import examples
from support.typed_equality import check_typed
from torch import Tensor, nn

import graphshard
from graphshard.errors import PartitionError, ShardError, UnsupportedOperation
from graphshard.graph.data import as_graph_data
from graphshard.graph.roles import Member, Role
from graphshard.partitioning.assign import assign
from graphshard.partitioning.partition import partition
from graphshard.shard.files import load_shard

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn as pyg
    from torch_geometric.data import HeteroData
WRITES, WRITTEN, CITES, PRINTS, PRINTED = EDGE_TYPES
Types = dict[str, Tensor]
Edges = dict[tuple[str, str, str], Tensor]


class Convs(nn.Module):
    """Two ``HeteroConv`` layers with another convolution for each edge type, and a norm over the papers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = pyg.HeteroConv(
            {
                WRITES: pyg.SAGEConv((4, 5), 4),
                WRITTEN: pyg.GATConv((5, 4), 4, add_self_loops=False),
                CITES: pyg.GCNConv(5, 4),
                PRINTS: pyg.SAGEConv((3, 5), 4, aggr="max"),
                PRINTED: pyg.GraphConv((5, 3), 4),
            }
        )
        self.norm = nn.BatchNorm1d(4)
        self.second = pyg.HeteroConv(
            {
                WRITES: pyg.GATConv((4, 4), 3, add_self_loops=False),
                CITES: pyg.GATConv(4, 3),
                WRITTEN: pyg.SAGEConv((4, 4), 3),
                PRINTED: pyg.SAGEConv((4, 4), 3),
            },
            aggr="mean",
        )

    def forward(self, x_dict: Types, edge_index_dict: Edges) -> Types:
        h = {name: x.tanh() for name, x in self.first(x_dict, edge_index_dict).items()}
        h["paper"] = self.norm(h["paper"])
        return self.second(h, edge_index_dict)


class WithAttributes(nn.Module):
    """Edge features by PyG's ``edge_attr_dict``; the loss inside forward, over papers and authors."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = pyg.HeteroDictLinear({"paper": 5, "author": 4, "venue": 3}, 4)
        kinds = {kind: pyg.TransformerConv(4, 4, edge_dim=2) for kind in EDGE_TYPES}
        self.conv = pyg.HeteroConv(kinds)

    def forward(self, x_dict: Types, edge_index_dict: Edges, edge_attr_dict: Edges, y_dict: Types) -> Tensor:
        h = self.conv(self.lin(x_dict), edge_index_dict, edge_attr_dict=edge_attr_dict)
        losses = [F.cross_entropy(h[name], y_dict[name]) for name in ("paper", "author")]
        return losses[0] + 2 * losses[1]


class OneType(nn.Module):
    """A model for homogeneous graphs, which PyG's ``to_hetero`` makes heterogeneous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.SAGEConv((4, 4), 4), pyg.SAGEConv((4, 4), 3, aggr="max")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class Transformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = pyg.HeteroDictLinear({"paper": 5, "author": 4, "venue": 3}, 4)
        self.gnn = pyg.to_hetero(OneType(), (["paper", "author", "venue"], list(EDGE_TYPES)))

    def forward(self, x_dict: Types, edge_index_dict: Edges) -> Types:
        return self.gnn(self.lin(x_dict), edge_index_dict)


class Transformer(nn.Module):
    """PyG's example hgt_dblp.py: a linear layer for each type, two HGT layers, the second with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = pyg.HeteroDictLinear({"paper": 5, "author": 4, "venue": 3}, 4)
        metadata = (["paper", "author", "venue"], list(EDGE_TYPES))
        self.first, self.second = pyg.HGTConv(4, 6, metadata, heads=2), pyg.HGTConv(6, 6, metadata, heads=3)

    def forward(self, x_dict: Types, edge_index_dict: Edges) -> Types:
        h = {name: x.relu() for name, x in self.lin(x_dict).items()}
        return self.second(self.first(h, edge_index_dict), edge_index_dict)


class BySource(nn.Module):
    """Written by hand: a scatter by source (out-degrees), ids compared across types, a mean over one type."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 5))

    def forward(self, x_dict: Types, edge_index_dict: Edges) -> tuple[Tensor, Tensor, Tensor]:
        author, paper = edge_index_dict[WRITES]
        x = x_dict["author"]
        degree = x.new_zeros(x.size(0)).index_add(0, author, x.new_ones(author.size(0)))
        sent = (x * degree.unsqueeze(1))[author] @ self.weight
        lower = (author < paper).to(x.dtype).unsqueeze(1)
        out = torch.zeros_like(x_dict["paper"]).index_add(0, paper, sent * lower)
        return out - x_dict["paper"].mean(0), degree, sent


MODELS: dict[str, Callable[[], nn.Module]] = {
    "HeteroConv": Convs,
    "attributes, loss": WithAttributes,
    "to_hetero": Transformed,
    "HGT": Transformer,
    "by source": BySource,
}


@functools.cache
def compiled(name: str) -> tuple[nn.Module, Compilations]:
    torch.manual_seed(0)
    return MODELS[name]().double(), Compilations()


@pytest.mark.parametrize("name", MODELS)
@examples(4)
@given(case=hetero_cases())
def test_any_partition(name: str, case: HeteroCase) -> None:
    model, programs = compiled(name)
    check_typed(model, case.data, case.assignments, case.parts, programs)


def test_outputs_say_which_nodes_their_rows_are() -> None:
    model, programs = compiled("by source")
    data = fixed_hetero()
    kinds = check_typed(model, data, owners(data, 3), 3, programs)
    wanted = [
        Member(Role.NODE, "paper"),
        Member(Role.NODE, "author"),
        Member(Role.EDGE, "author__writes__paper"),
    ]
    assert kinds == wanted


def test_verify_compares_the_rows_of_every_type() -> None:
    report = graphshard.verify(Transformed, fixed_hetero(), 3, modes=["train"])
    assert report.passed
    rows = {row.name: row for row in report.rows if row.kind == "input gradient"}
    assert {name: rows[f"x_dict[{name!r}]"].rows for name in ("paper", "author", "venue")} == {
        "paper": 13,
        "author": 9,
        "venue": 4,
    }
    assert (
        sum(row.kind == "halo sync" for row in report.rows) == 6
    )  # each type's features, then their hidden rows


def test_three_edge_types_over_one_node_type() -> None:
    data = HeteroData()
    random = torch.Generator().manual_seed(1)
    data["package"].x = torch.randn(12, 4, generator=random, dtype=torch.float64)
    kinds = [("package", word, "package") for word in ("depends", "recommends", "suggests")]
    for kind in kinds:
        data[kind].edge_index = torch.randint(12, (2, 20), generator=random)

    class Relations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = pyg.HeteroConv({kind: pyg.SAGEConv(4, 3) for kind in kinds})

        def forward(self, x_dict: Types, edge_index_dict: Edges) -> Types:
            return self.conv(x_dict, edge_index_dict)

    check_typed(Relations().double(), data, {"package": torch.arange(12) % 3}, 3)
    # All three share one plan: the features are fetched once.
    shard = partition(data, 2)[0]
    program = graphshard.distribute(Relations().double()).stages(partition(data, 1)[0])[-1].program
    assert sum("halo_sync" in str(node.target) for node in program.graph.nodes) == 1
    assert list(shard.node_sets["package"].plans) == [""]


def test_the_other_ways_to_give_the_same_graph(tmp_path: Path) -> None:
    data = fixed_hetero()
    plain = {"x_dict": data.x_dict, "edge_index_dict": data.edge_index_dict}
    one, two = partition(data, 2, seed=1), partition(plain, 2, seed=1)
    for a, b in zip(one, two, strict=True):
        for name in b.tensors:
            assert torch.equal(local(a.tensors[name]), local(b.tensors[name]))
    one.save(tmp_path / "parts")
    shard = load_shard(tmp_path / "parts", 1)
    assert (shard.schema, shard.sizes, shard.own_sizes) == (one[1].schema, one[1].sizes, one[1].own_sizes)
    assert shard.members == one[1].members
    assert torch.equal(local(shard["paper"].x), local(one[1].x_dict["paper"]))
    assert torch.equal(local(shard["author", "writes", "paper"].edge_attr), local(one[1]["writes"].edge_attr))
    assert torch.equal(shard["cites"].edges.edge_ids, one[1].edge_sets["paper__cites__paper"].edge_ids)
    assert shard.to(torch.float32)["venue"].x.dtype == torch.float32
    assert list(shard.x_dict) == ["paper", "author", "venue"]
    assert list(shard.edge_index_dict) == list(EDGE_TYPES)


def test_arguments_by_name_as_tensors_and_as_plain_tensors() -> None:
    model, _ = compiled("to_hetero")
    data = fixed_hetero()
    shard = partition(data, 1)[0]
    distributed = graphshard.distribute(model)
    expected = model(data.x_dict, data.edge_index_dict)
    calls = ((shard,), (shard.x_dict, shard.edge_index_dict), (data.x_dict, data.edge_index_dict))
    for arguments in calls:
        for name, value in distributed(*arguments).items():
            torch.testing.assert_close(value, expected[name])
    whole = shard.gather(expected["author"], node_type="author")
    assert torch.equal(whole, expected["author"].detach())
    assert torch.equal(shard.scatter(data["venue"].x, "node:venue"), data["venue"].x)
    with pytest.raises(
        ShardError, match="heterogeneous graph: its node types are 'paper', 'author', 'venue'"
    ):
        shard.gather(expected["author"])


def test_shards_number_every_type_by_itself() -> None:
    data = fixed_hetero(3)
    shards = partition(data, 3, method=owners(data, 3))
    for kind in EDGE_TYPES:
        name = "__".join(kind)
        for shard in shards:
            source, destination = shard.node_sets[kind[0]], shard.node_sets[kind[2]]
            own = local(shard[kind].edge_index)
            whole = data[kind].edge_index[:, shard.edge_sets[name].edge_ids]
            assert torch.equal(source.node_ids[""][own[0]], whole[0])
            assert torch.equal(destination.owned_ids[own[1]], whole[1])
        every = torch.cat([shard.edge_sets[name].edge_ids for shard in shards])
        assert torch.equal(every.sort().values, torch.arange(22))


def test_metis_cuts_all_types_as_one_graph() -> None:
    # Two communities: METIS must keep the papers, authors and venues of each together.
    data = make_hetero({"paper": 40, "author": 20, "venue": 10}, {}, 0)
    for source, word, destination in EDGE_TYPES:
        ends = []
        for name in (source, destination):
            half = data[name].num_nodes // 2
            ends.append(torch.cat([torch.randint(half, (80,)), half + torch.randint(half, (80,))]))
        data[source, word, destination].edge_index = torch.stack(ends)
    shards = partition(data, 2)
    assert shards.report.edge_cut == 0
    assert shards.report.edge_balance == 1.0
    assert shards.report.owned_by_type == {"paper": (20, 20), "author": (10, 10), "venue": (5, 5)}
    assert "  author: 20 nodes, largest part over mean 1.00" in str(shards.report)
    assert shards.report.as_dict()["balance_by_type"]["venue"] == 1.0


def test_the_assignment_is_a_dict_of_types() -> None:
    data = fixed_hetero()
    seen = {}

    def halves(indices: dict[str, Tensor], counts: dict[str, int], parts: int) -> dict[str, Tensor]:
        seen.update(indices)
        return {name: torch.arange(count) * parts // count for name, count in counts.items()}

    shards = partition(data, 2, method=halves)
    assert sorted(seen) == sorted("__".join(kind) for kind in EDGE_TYPES)
    assert torch.equal(shards.assignments["venue"], torch.tensor([0, 0, 1, 1]))
    graph = as_graph_data(data)
    for wrong, message in (
        ({"paper": torch.zeros(13).long()}, "part ids of each node type: 'paper', 'author', 'venue'"),
        (torch.zeros(26).long(), "must be a dict"),
        (owners(data, 2) | {"venue": torch.tensor([0, 1, 2, 0])}, "node 2 of 'venue' is assigned to part 2"),
    ):
        with pytest.raises(PartitionError, match=message):
            assign(graph, 2, wrong, 0)
    with pytest.raises(PartitionError, match="several node types"):
        _ = shards.assignment


def test_what_does_not_belong_together_is_refused() -> None:
    data = fixed_hetero()
    shard = partition(data, 1)[0]

    class WrongType(nn.Module):
        def forward(self, x_dict: Types, edge_index_dict: Edges) -> Tensor:
            return x_dict["venue"][edge_index_dict[WRITES][0]]  # authors' numbers

    with pytest.raises(
        UnsupportedOperation, match=r"rows Owned\(venue\) by numbers of other nodes \(halo\(author\)"
    ):
        graphshard.distribute(WrongType())(shard)
    broken = fixed_hetero()
    broken[WRITES].edge_index[1, 3] = 13
    with pytest.raises(PartitionError, match=r"\[1, 3\] is 13, but the graph has 13 nodes of 'paper'"):
        partition(broken, 2)
    with pytest.raises(PartitionError, match="number of nodes of 'author' cannot be told"):
        partition(
            {"x_dict": {"paper": data["paper"].x}, "edge_index_dict": {WRITES: data[WRITES].edge_index}}, 2
        )
    with pytest.raises(ShardError, match="not one type of this shard"):
        _ = shard["press"]


@pytest.mark.parametrize("aggregation", ["max", "cat", None])
def test_group_aggregations(aggregation: str | None) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = pyg.HeteroDictLinear({"paper": 5, "author": 4, "venue": 3}, 4)
            convs = {kind: pyg.GraphConv((4, 4), 3) for kind in (WRITES, CITES, WRITTEN, PRINTED)}
            self.conv = pyg.HeteroConv(convs, aggr=aggregation)

        def forward(self, x_dict: Types, edge_index_dict: Edges) -> Types:
            return self.conv(self.lin(x_dict), edge_index_dict)

    data = fixed_hetero()
    check_typed(Grouped().double(), data, owners(data, 3), 3)
