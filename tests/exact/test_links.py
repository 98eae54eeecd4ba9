"""Link prediction: arbitrary pairs, positive and negative, are scored as on one machine; and bipartite graphs."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from support.equality import Compilations
from support.hetero_cases import LinkCase, fixed_hetero, link_cases, make_links
from support.local import local
from support.strategies import examples
from support.typed_equality import check_typed
from torch import Tensor, nn

import graphshard
from graphshard.errors import GraphshardError, PartitionError, UnsupportedOperation
from graphshard.graph.roles import Member, Role
from graphshard.graph.schema import PAIRS
from graphshard.partitioning.partition import partition
from graphshard.shard.files import load_shard
from graphshard.shard.shard import Shard

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn as pyg
    from torch_geometric.data import HeteroData
    from torch_geometric.transforms import RandomLinkSplit


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = pyg.GCNConv(5, 6), pyg.SAGEConv(6, 4)

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)

    def decode(self, z: Tensor, pairs: Tensor) -> Tensor:
        return (z[pairs[0]] * z[pairs[1]]).sum(dim=-1)


class Scores(Encoder):
    """PyG's link prediction example: positive and negative pairs joined, then scored."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor, neg_edge_index: Tensor):  # type: ignore[no-untyped-def]
        z = self.encode(x, edge_index)
        pairs = torch.cat([edge_label_index, neg_edge_index], dim=-1)
        return self.decode(z, pairs).mean(), self.decode(z, edge_label_index)


class Loss(Encoder):
    """The loss inside forward, with the labels of the pairs."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor, edge_label: Tensor) -> Tensor:
        scores = self.decode(self.encode(x, edge_index), edge_label_index)
        return F.binary_cross_entropy_with_logits(scores, edge_label)


class AutoEncoder(Encoder):
    """PyG's GAE: the edges themselves are the positive pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.gae = pyg.GAE(nn.Identity())

    def forward(self, x: Tensor, edge_index: Tensor, neg_edge_index: Tensor) -> Tensor:
        return self.gae.recon_loss(self.encode(x, edge_index), edge_index, neg_edge_index)


class Attended(Encoder):
    """Pairs as a second graph: a softmax over the pairs of each destination, and out-degrees by source."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        z = self.encode(x, edge_index)
        src, dst = edge_label_index
        weight = torch.exp(self.decode(z, edge_label_index).tanh())
        degree = x.new_zeros(x.size(0)).index_add(0, src, weight)
        return torch.zeros_like(z).index_add(0, dst, z[src] * weight.unsqueeze(1) * degree[dst].unsqueeze(1))


MODELS = {"scores": Scores, "loss": Loss, "auto-encoder": AutoEncoder, "attended": Attended}


@functools.cache
def compiled(name: str) -> tuple[nn.Module, Compilations]:
    torch.manual_seed(0)
    return MODELS[name]().double(), Compilations()


@pytest.mark.parametrize("name", MODELS)
@examples(5)
@given(case=link_cases())
def test_any_partition(name: str, case: LinkCase) -> None:
    model, programs = compiled(name)
    check_typed(model, case.data, case.assignment, case.parts, programs)


class OnlyScores(Encoder):
    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        return self.decode(self.encode(x, edge_index), edge_label_index)


def test_a_loss_outside_of_forward() -> None:
    def loss(scores: Tensor, shard: Shard, mean):  # type: ignore[no-untyped-def]
        return mean(F.binary_cross_entropy_with_logits(scores, shard.edge_label, reduction="none"))

    data = make_links(20, 60, 26, 17, 0)
    kinds = check_typed(OnlyScores().double(), data, torch.arange(20) % 3, 4, loss=loss)
    assert kinds == [Member(Role.EDGE, "edge_label_index")]


def test_layers_do_not_fetch_what_only_pairs_read(tmp_path: Path) -> None:
    # No edges at all between the parts, but every pair lies across.
    edges = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    pairs = torch.tensor([[0, 1, 2], [2, 3, 0]])
    data = {"x": torch.randn(4, 2), "edge_index": edges, "pairs": pairs}
    shards = partition(data, 2, method=torch.tensor([0, 0, 1, 1]), roles={"x": "node"})
    assert shards.report.halo_nodes == 0
    assert shards.report.edge_cut == 0
    assert shards.report.halo_by_plan == {("", ""): (0, 0), ("", PAIRS): (1, 2)}
    assert shards[1].schema.edge_set("pairs").plan == PAIRS
    assert local(shards[1].pairs).tolist() == [[2, 3], [0, 1]]
    shards.save(tmp_path / "parts")
    again = load_shard(tmp_path / "parts", 1)
    assert again.schema == shards[1].schema
    assert torch.equal(again.node_sets[""].node_ids[PAIRS], shards[1].node_sets[""].node_ids[PAIRS])


def test_the_labels_of_a_random_link_split_belong_to_its_pairs() -> None:
    # As many pairs as edges: only PyG's own convention can tell whose labels they are.
    data = make_links(20, 40, 1, 1, 0)
    del data.edge_label_index, data.edge_label, data.neg_edge_index
    train = RandomLinkSplit(num_val=0, num_test=0, is_undirected=False, neg_sampling_ratio=0.0)(data)[0]
    assert train.edge_label.size(0) == train.edge_index.size(1)
    shard = partition(train, 2)[0]
    assert shard.members["edge_label"] == Member(Role.EDGE, "edge_label_index")
    plain = {name: train[name] for name in ("x", "edge_index", "edge_label")}
    plain["neg"] = torch.cat([train.edge_label_index[:, 1:], train.edge_label_index[:, :1]], 1)
    with pytest.raises(PartitionError, match="'edge' or 'edge:neg'"):
        partition(plain, 2)
    given = partition(plain, 2, roles={"edge_label": "edge:neg"})[0]
    assert given.members["edge_label"] == Member(Role.EDGE, "neg")


def test_an_index_of_other_things_is_named() -> None:
    data = {
        "x": torch.randn(6, 2),
        "edge_index": torch.randint(6, (2, 9)),
        "table": torch.tensor([[7, 1], [0, 9]]),
    }
    with pytest.raises(PartitionError, match=r"table\[0, 0\] is 7, .* roles=\{'table': \"replicated\"\}"):
        partition(data, 2)
    assert partition(data, 2, roles={"table": "replicated"})[0].roles["table"] is Role.REPLICATED
    with pytest.raises(PartitionError, match="only the sets '', 'table'"):
        partition(data | {"table": torch.zeros(2, 2).long(), "w": torch.ones(3)}, 2, roles={"w": "edge:tab"})


def test_two_graphs_of_messages_share_one_halo() -> None:
    random = torch.Generator().manual_seed(2)
    data = {
        "x": torch.randn(12, 5, generator=random, dtype=torch.float64),
        "pos": torch.randint(12, (2, 20), generator=random),
        "neg": torch.randint(12, (2, 25), generator=random),
    }

    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = pyg.SignedConv(5, 3, first_aggr=True)

        def forward(self, x: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
            return self.conv(x, pos, neg)

    with pytest.raises(PartitionError, match="could each be the edge index"):
        partition(data, 2)
    roles = {"pos": "edge_index", "neg": "edge_index"}
    assert partition(data, 2, roles=roles)[0].schema.plans("") == ("",)
    check_typed(Signed().double(), data, torch.arange(12) % 3, 3, roles=roles)


def test_pairs_and_edges_are_not_joined() -> None:
    class Joined(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
            both = torch.cat([edge_index, edge_label_index], dim=1)
            return x[both[0]]

    with pytest.raises(UnsupportedOperation, match=r"belong together in row 0: halo and halo\(pairs\)"):
        graphshard.distribute(Joined())(partition(make_links(8, 12, 9, 5, 0), 1)[0])


def test_numbers_of_two_halos_are_compared_by_their_global_ids() -> None:
    class Compared(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor):  # type: ignore[no-untyped-def]
            src, dst = edge_label_index
            first = edge_index[0].to(x.dtype).sum()
            return x[src, 0] * (src < dst), (src == dst).to(x.dtype), x[src, 0] * 0 + first

    data = make_links(9, 30, 21, 5, 1)
    check_typed(Compared().double(), data, torch.arange(9) % 3, 3)


class Bipartite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = pyg.SAGEConv((4, 5), 3)
        self.back = pyg.SAGEConv((3, 4), 2)

    def forward(self, x: tuple[Tensor, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        items = self.conv(x, edge_index)
        return items, self.back((items, x[0]), edge_index.flip(0))


BIPARTITE = {"x[0]": "node:user", "x[1]": "node:item", "edge_index": "edge_index:user->item"}


def bipartite() -> dict[str, object]:
    random = torch.Generator().manual_seed(3)
    ends = [torch.randint(count, (30,), generator=random) for count in (11, 8)]
    x = tuple(torch.randn(n, width, generator=random, dtype=torch.float64) for n, width in ((11, 4), (8, 5)))
    return {"x": x, "edge_index": torch.stack(ends)}


def test_a_bipartite_graph_of_plain_tensors() -> None:
    owners = {"user": torch.arange(11) % 2, "item": torch.arange(8) % 3}
    kinds = check_typed(Bipartite().double(), bipartite(), owners, 4, roles=BIPARTITE)
    assert kinds == [Member(Role.NODE, "item"), Member(Role.NODE, "user")]
    data = bipartite()
    model = Bipartite().double()
    found = graphshard.distribute(model, roles=BIPARTITE)(data["x"], data["edge_index"])
    torch.testing.assert_close(found, model(data["x"], data["edge_index"]))
    with pytest.raises(GraphshardError, match="fails on example inputs"):
        graphshard.distribute(model)(data["x"], data["edge_index"])


def test_a_bipartite_graph_as_hetero_data() -> None:
    plain, data, model = bipartite(), HeteroData(), Bipartite().double()
    data["user"].x, data["item"].x = plain["x"]  # type: ignore[misc]
    data["user", "rates", "item"].edge_index = plain["edge_index"]
    shard = partition(data, 1)[0]
    found = graphshard.distribute(model)((shard["user"].x, shard["item"].x), shard["rates"].edge_index)
    torch.testing.assert_close(found, model(plain["x"], plain["edge_index"]))


def test_links_of_a_heterogeneous_graph() -> None:
    class Rates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kinds = {("author", "writes", "paper"): pyg.SAGEConv((4, 5), 4)}
            kinds["paper", "written_by", "author"] = pyg.SAGEConv((5, 4), 4)
            self.conv = pyg.HeteroConv(kinds)

        def forward(self, x_dict, edge_index_dict, edge_label_index_dict):  # type: ignore[no-untyped-def]
            z = self.conv(x_dict, edge_index_dict)
            author, paper = edge_label_index_dict["author", "writes", "paper"]
            return (z["author"][author] * z["paper"][paper]).sum(-1)

    data = fixed_hetero()
    random = torch.Generator().manual_seed(5)
    store = data["author", "writes", "paper"]
    store.edge_label_index = torch.stack([torch.randint(n, (17,), generator=random) for n in (9, 13)])
    store.edge_label = torch.ones(17)
    owners = {name: torch.arange(data[name].num_nodes) % 3 for name in data.node_types}
    kinds = check_typed(Rates().double(), data, owners, 3)
    pairs = "author__writes__paper.edge_label_index_dict"
    assert kinds == [Member(Role.EDGE, pairs)]
    shard = partition(data, 2)[0]
    assert shard.members["edge_label_dict[('author', 'writes', 'paper')]"] == Member(Role.EDGE, pairs)
    assert shard.node_sets["author"].plans.keys() == {"", PAIRS}
    assert shard.node_sets["paper"].plans.keys() == {""}
