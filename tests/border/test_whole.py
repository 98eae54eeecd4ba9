"""Whole in, whole out: a model called with whole tensors on several ranks gives what it gives on one machine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.equality import TOLERANCE
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GATConv, GCNConv, HeteroConv, SAGEConv

import graphshard
from graphshard.errors import RuntimeMismatch, ShardError
from graphshard.testing import run_ranks

Body = Callable[[nn.Module], Any]


def graph(nodes: int = 20, edges: int = 70, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(nodes, 5, generator=g, dtype=torch.float64),
        "edge_index": torch.randint(0, nodes, (2, edges), generator=g),
        "y": torch.randint(0, 3, (nodes,), generator=g),
        "mask": torch.rand(nodes, generator=g) < 0.5,
    }


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return kind().double()


def check(kind: Callable[[], nn.Module], body: Body, ranks: int = 2, **settings: Any) -> None:
    """``body(model)`` returns on every rank what it returns on one machine, and leaves the same gradients."""
    single = made(kind)
    expected = body(single), {n: p.grad for n, p in single.named_parameters()}
    models = [made(kind) for _ in range(ranks)]

    def rank(number: int, _: str, group: Any) -> Any:
        model = graphshard.distribute(models[number], group=group, **settings)
        return body(model), {n: p.grad for n, p in model.named_parameters()}

    for found in run_ranks(ranks, rank):
        mine, right = pytree.tree_leaves(found), pytree.tree_leaves(expected)
        assert len(mine) == len(right)
        for a, b in zip(mine, right, strict=True):
            if isinstance(b, Tensor):
                torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
            else:
                assert a == b


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNConv(5, 6), GATConv(6, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)  # type: ignore[no-any-return]


class Many(Net):
    """Rows of nodes, of joined edges, kept rows, a number of all, rows along another dim, numbers of nodes."""

    def forward(self, x: Tensor, edge_index: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        hidden = self.first(x, edge_index).tanh()
        out, (used, alpha) = self.second(hidden, edge_index, return_attention_weights=True)
        edges = out[edge_index[0]] - out[edge_index[1]]
        return {
            "out": out,
            "used": (used, alpha),
            "kept": out[mask],
            "sum": out.sum(0),
            "t": out.t(),
            "edges": edges,
        }


def weighted(tree: Any) -> Tensor:
    """A loss in which every element of every output counts differently."""
    parts = [t for t in pytree.tree_leaves(tree) if t.is_floating_point()]
    return torch.stack([(t * torch.arange(t.numel()).view_as(t).cos()).pow(2).sum() for t in parts]).sum()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_outputs_of_every_kind_and_gradients_of_inputs(ranks: int) -> None:
    data = graph()

    def body(model: nn.Module) -> Any:
        x = data["x"].clone().requires_grad_()
        out = model(x, data["edge_index"], data["mask"])
        weighted(out).backward()
        return out, x.grad

    check(Many, body, ranks)


@settings(max_examples=4, deadline=None)
@given(st.integers(4, 11), st.integers(1, 30), st.integers(0, 1 << 20))
def test_on_random_graphs(nodes: int, edges: int, seed: int) -> None:
    data = graph(nodes, edges, seed)

    def body(model: nn.Module) -> Any:
        out = model(data["x"], data["edge_index"])
        weighted(out).backward()
        return out

    check(Net, body, 2, roles={"x": "node"})


def train_with_masks(model: nn.Module) -> list[float]:
    data, losses = graph(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-3)
    train = data["mask"].nonzero().flatten()
    for _ in range(3):
        optimizer.zero_grad()
        out = model(data["x"], data["edge_index"])
        loss = F.cross_entropy(out[train], data["y"][train], weight=torch.tensor([1.0, 2.0, 3.0]).double())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(float((out.argmax(-1) == data["y"])[~data["mask"]].float().mean()))
    return losses


def link_prediction(model: nn.Module) -> Tensor:
    """New negative pairs in every epoch, scored outside of the model."""
    data, total = graph(), torch.tensor(0.0)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        rows = model(data["x"], data["edge_index"])
        pairs = torch.cat([data["edge_index"], torch.randint(0, 20, (2, 70), generator=generator)], 1)
        scores = (rows[pairs[0]] * rows[pairs[1]]).sum(1)
        loss = F.binary_cross_entropy_with_logits(scores, (torch.arange(140) < 70).double())
        loss.backward()
        total = total + loss.detach()
    return total


def penalty_on_inputs(model: nn.Module) -> Tensor:
    """A gradient penalty: the derivative by the whole input is a term of the loss."""
    data = graph()
    x = data["x"].clone().requires_grad_()
    out = model(x, data["edge_index"]).pow(2).sum()
    (slope,) = torch.autograd.grad(out, x, create_graph=True)
    loss = out + slope.norm(dim=1).sub(1).pow(2).mean()
    loss.backward()
    return loss.detach()


def hessian_vector(model: nn.Module) -> list[Tensor]:
    data = graph()
    loss = F.cross_entropy(model(data["x"], data["edge_index"]), data["y"])
    weights = list(model.parameters())
    first = torch.autograd.grad(loss, weights, create_graph=True)
    return list(torch.autograd.grad(torch.stack([g.sin().sum() for g in first]).sum(), weights))


def other_edges_in_every_step(model: nn.Module) -> Tensor:
    """Edges dropped at random, and a graph written to in place: each call sees its own."""
    data = graph()
    edge_index, found = data["edge_index"].clone(), []
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        keep = torch.rand(70, generator=generator) < 0.7
        found.append(model(data["x"], edge_index[:, keep]))
    edge_index[0, :10] = 3
    found.append(model(data["x"], edge_index))
    weighted(found).backward()
    data["x"].mul_(2)
    found.append(model(data["x"], edge_index))
    return torch.stack(found).detach()


def an_undistributed_head_and_encoder(model: nn.Module) -> Tensor:
    """What stands before and after the model is plain torch; weights are used inside and outside at once."""
    data = graph()
    encoder, head = nn.Linear(5, 5).double(), nn.Linear(3, 1).double()
    own = torch.Generator().manual_seed(
        2
    )  # ranks are threads, which would draw from one generator in any order
    for parameter in (*encoder.parameters(), *head.parameters()):
        nn.init.uniform_(parameter, -0.4, 0.4, generator=own)
    rows = head(model(encoder(data["x"]), data["edge_index"]))
    loss = rows.pow(2).mean() + torch.stack([p.pow(2).sum() for p in model.parameters()]).sum()
    loss.backward()
    grads = [p.grad for p in (*encoder.parameters(), *head.parameters())]
    return torch.cat([g.flatten() for g in grads if g is not None])


@pytest.mark.parametrize(
    "body",
    [
        train_with_masks,
        link_prediction,
        penalty_on_inputs,
        hessian_vector,
        other_edges_in_every_step,
        an_undistributed_head_and_encoder,
    ],
    ids=lambda body: body.__name__,
)
def test_a_script_is_right_as_it_is_written(body: Body) -> None:
    check(Net, body, 3)


class Typed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        own = {("a", "to", "b"): SAGEConv((4, 3), 5), ("b", "of", "a"): SAGEConv((3, 4), 5)}
        self.conv = HeteroConv(own)

    def forward(self, x_dict: dict[str, Tensor], edge_index_dict: dict[Any, Tensor]) -> dict[str, Tensor]:
        return self.conv(x_dict, edge_index_dict)  # type: ignore[no-any-return]


def test_heterogeneous_data() -> None:
    data, g = HeteroData(), torch.Generator().manual_seed(0)
    data["a"].x, data["b"].x = (torch.randn(n, n // 3, generator=g).double() for n in (12, 9))
    ends = torch.randint(0, 9, (2, 30), generator=g)
    data["a", "to", "b"].edge_index, data["b", "of", "a"].edge_index = ends, ends[:, :25].flip(0)

    def body(model: nn.Module) -> Any:
        distributed = isinstance(model, graphshard.DistributedModule)
        out = model(data) if distributed else model(data.x_dict, data.edge_index_dict)
        weighted(out).backward()
        return out

    check(Typed, body)


def test_a_data_object_is_taken_apart_by_name() -> None:
    raw = graph()
    data = Data(**{name: raw[name] for name in ("x", "edge_index", "y")})
    body = lambda model: (  # noqa: E731
        model(data) if isinstance(model, graphshard.DistributedModule) else model(data.x, data.edge_index)
    )
    check(Net, body)


class Embedded(Net):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 5)

    def forward(self, edge_index: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(self.table.weight, edge_index)


def test_a_parameter_with_a_row_for_each_node_stays_whole() -> None:
    def body(model: nn.Module) -> Any:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            out = model(graph()["edge_index"])
            weighted(out).backward()
            optimizer.step()
        return out, model.table.weight.detach()  # type: ignore[union-attr, operator]

    check(Embedded, body, node_parameters=["table.weight"])


@pytest.mark.parametrize("differs", ["x", "edge_index", "mask"])
def test_ranks_that_pass_different_tensors_are_named(differs: str) -> None:
    models = [made(Many) for _ in range(2)]

    def rank(number: int, _: str, group: Any) -> Any:
        data = graph()
        if number == 1:
            data[differs] = data[differs].flip(-1)
        model = graphshard.distribute(models[number], group=group)
        with pytest.raises(RuntimeMismatch, match=f"argument '{differs}' is .* on rank 0 but .* on rank 1"):
            model(data["x"], data["edge_index"], data["mask"])

    run_ranks(2, rank)


def test_ranks_whose_losses_differ_are_told_in_backward() -> None:
    models = [made(Net) for _ in range(2)]

    def rank(number: int, _: str, group: Any) -> Any:
        data = graph()
        out = graphshard.distribute(models[number], group=group)(data["x"], data["edge_index"])
        with pytest.raises(RuntimeMismatch, match="the gradient of gathered rows differs"):
            out[number::2].sum().backward()  # as a script that still cuts its loss by hand

    run_ranks(2, rank)


def test_ranks_whose_computed_inputs_differ_are_told() -> None:
    models = [made(Net) for _ in range(2)]

    def rank(number: int, _: str, group: Any) -> Any:
        data = graph()
        noise = torch.full((5,), 1.0 + number, requires_grad=True)
        model = graphshard.distribute(models[number], group=group)
        with pytest.raises(RuntimeMismatch, match="argument 'x' differs between the ranks"):
            model(data["x"] * noise, data["edge_index"])

    run_ranks(2, rank)


def test_an_adjacency_that_needs_a_gradient_is_refused() -> None:
    class Product(nn.Module):
        def forward(self, adj: Tensor, x: Tensor) -> Tensor:
            return adj @ x

    data = graph()
    adj = torch.sparse_coo_tensor(data["edge_index"], torch.ones(70).double(), (20, 20)).requires_grad_()
    with pytest.raises(ShardError, match="pass an edge_index and the weights"):
        graphshard.distribute(Product())(adj, data["x"])


def test_a_call_that_changes_nothing_cuts_nothing() -> None:
    """What is passed again is the same memory for the program, so constants of the graph stay."""
    data, model = graph(), made(Net)
    models = [copy.deepcopy(model) for _ in range(2)]

    def rank(number: int, _: str, group: Any) -> int:
        model = graphshard.distribute(models[number], group=group)
        with graphshard.count_bytes() as first:
            model(data["x"], data["edge_index"])
        with graphshard.count_bytes() as second:
            model(data["x"], data["edge_index"])
        return first.halo_bytes - second.halo_bytes

    assert all(saved > 0 for saved in run_ranks(2, rank))


class TakesData(Net):
    def forward(self, data: Any) -> Tensor:  # type: ignore[override]
        return super().forward(data.x, data.edge_index)


def test_forward_may_take_the_data_as_one() -> None:
    raw = graph()
    data = Data(**{name: raw[name] for name in ("x", "edge_index", "y")})

    def body(model: nn.Module) -> Any:
        out = model(data)
        weighted(out).backward()
        return out

    check(TakesData, body)


@pytest.mark.parametrize("name", ["x", "edge_index"])
def test_data_written_through_numpy_is_cut_anew(name: str) -> None:
    """A write that PyTorch does not count: into features, and into the edges that the graph was cut along."""

    def body(model: nn.Module) -> Any:
        data = graph()
        first = model(data["x"], data["edge_index"]).detach()
        data[name].numpy()[:, 3] = 1
        return first, model(data["x"], data["edge_index"]).detach()

    check(Net, body)
