"""Rows read and written by numbers that every rank holds whole: triplets of edges, pairs of pairs, chosen nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.programs import model_of
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.utils import scatter, softmax

import graphshard
from graphshard.testing import assert_equivalent, assert_training_equivalent, run_ranks

N, E = 17, 41


def graph(seed: int = 0) -> Data:
    random = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(N, (2, E), generator=random)
    source, destination = edge_index
    first, second = torch.where((destination[:, None] == source) & (source[:, None] != destination))
    return Data(
        x=torch.randn(N, 3, generator=random),
        edge_index=edge_index,
        edge_attr=torch.randn(E, 4, generator=random),
        idx_kj=first,
        idx_ji=second,
        chosen=torch.tensor([4, -1, 0, 4, 16]),
    )


class Triplets(nn.Module):
    """Directional messages (Gasteiger et al., 2020): what an edge gets comes from the edges that end in its source."""

    def __init__(self) -> None:
        super().__init__()
        self.edge, self.angle, self.out = nn.Linear(10, 5), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, idx_kj: Tensor, idx_ji: Tensor
    ) -> Tensor:
        j, i = edge_index
        m = torch.tanh(self.edge(torch.cat([x[j], x[i], edge_attr], -1)))
        # The nodes of a triplet, by the numbers of its edges.
        angle = torch.cat([x[j[idx_kj]] - x[i[idx_ji]], edge_attr[idx_ji][:, :3]], -1)
        weight = softmax(self.angle(angle).sum(-1), idx_ji, num_nodes=m.size(0))
        m = m + scatter(m[idx_kj] * weight.unsqueeze(-1), idx_ji, 0, m.size(0), "sum")
        m = m + scatter(self.angle(angle), idx_ji, 0, m.size(0), "mean")
        m = m + scatter(m[idx_kj].square(), idx_ji, 0, m.size(0), "max")
        return self.out(scatter(m, i, 0, x.size(0), "sum"))


@pytest.mark.parametrize("num_parts", [2, 5])
def test_triplets_equal_one_machine(num_parts: int) -> None:
    assert_equivalent(Triplets(), graph(), num_parts)


def test_triplets_whole_in_whole_out_in_training() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> Tensor:
        optimizer.zero_grad()
        out = model(data.x, data.edge_index, data.edge_attr, data.idx_kj, data.idx_ji)
        loss = out.square().mean()
        loss.backward()
        optimizer.step()
        return loss

    assert_training_equivalent(Triplets, step, graph(), 2, whole=True, roles={"x": "node"})


def _of_each_kind(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
    """Numbers of nodes and edges, negative ones, in every form of reading and writing."""
    nodes, edges = torch.tensor([4, -1, 0, 4]), torch.tensor([[3, 0], [2, 3]])
    h = x.tanh()
    read = (
        h[nodes] + h.index_select(0, nodes.relu()) + h.gather(0, nodes.relu()[:, None].expand(4, h.size(1)))
    )
    read = read * edge_weight[edges].sum() + (h > 0)[nodes]
    h = h.index_add(0, nodes.relu(), read, alpha=2)
    h = h.index_put((nodes,), read, accumulate=True)
    h = h.scatter_reduce(0, nodes.relu()[:2, None].expand(2, h.size(1)), read[:2], "amin")
    h = h.index_put((nodes[1:3],), read.new_tensor(0.5))
    total = torch.zeros_like(edge_weight).scatter(0, edges[0], 1.5) * edge_weight
    ends = edge_index[:, edges[1]]  # global numbers of nodes
    return h + h[ends[0]].mean() + torch.zeros_like(x[:, 0]).index_add(0, edge_index[1], total)[:, None]


def test_every_form_of_reading_and_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(3)
    data = {
        "x": torch.randn(9, 3, generator=random),
        "edge_index": torch.randint(9, (2, 20), generator=random),
    }
    data["edge_weight"] = torch.rand(20, generator=random)
    for parts in (2, 11):
        assert_equivalent(model_of(_of_each_kind), data, parts)


def _second(self, x: Tensor, edge_index: Tensor) -> Tensor:
    numbers = torch.tensor([1, 5, 1])
    energy = (x[numbers] * self.a).sin().square()
    return torch.zeros_like(x).index_add(0, numbers, energy)


def test_derivatives_of_any_order() -> None:
    data = graph()

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.linspace(0.5, 1.5, 3, dtype=torch.float64))

        forward = _second

    def penalty(model: Any, x: Tensor, *rest: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(model(x, *rest).square().sum(), model.a, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), model.a)
        return second

    x = data.x.double()
    expected = penalty(Energy(), x, data.edge_index)

    def rank(number: int, _: str, group: Any) -> Tensor:
        return penalty(graphshard.distribute(models[number], group=group), x, data.edge_index)

    models = [Energy() for _ in range(3)]
    for found in run_ranks(3, rank):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_number_past_the_rows_is_an_error_on_every_rank() -> None:
    data = graph()
    data.idx_kj = data.idx_kj.clone()
    data.idx_kj[3] = E
    with pytest.raises(IndexError, match=rf"index {E} is out of bounds for {E} rows"):
        assert_equivalent(Triplets(), data, 2, roles={"idx_kj": "replicated"})


def test_numbers_of_the_edges_of_a_type() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(6, 4)

        def forward(
            self, x_dict: dict[str, Tensor], edge_index_dict: dict[tuple[str, str, str], Tensor], pair: Tensor
        ) -> Tensor:
            source, destination = edge_index_dict["author", "writes", "paper"]
            m = self.lin(torch.cat([x_dict["author"][source], x_dict["paper"][destination]], -1))
            m = m + torch.zeros_like(m).index_add(0, pair[1], m[pair[0]].tanh())
            return torch.zeros_like(x_dict["paper"][:, :1]).expand(-1, 4).index_add(0, destination, m)

    data = HeteroData()
    random = torch.Generator().manual_seed(1)
    data["author"].x, data["paper"].x = (
        torch.randn(8, 3, generator=random),
        torch.randn(12, 3, generator=random),
    )
    data["author", "writes", "paper"].edge_index = torch.stack(
        [torch.randint(n, (30,), generator=random) for n in (8, 12)]
    )
    data.pair = torch.randint(30, (2, 50), generator=random)
    assert_equivalent(Between(), data, 3, roles={"pair": "replicated"})


Refused = Callable[[Tensor, Tensor], Tensor]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (
            lambda self, x, edge_index: x.scatter_reduce(0, torch.zeros_like(x[:1]).long(), x[:1], "prod"),
            "prod|row",
        ),
        (
            lambda self, x, edge_index: x.index_put(
                (torch.tensor([[0], [1]]),), x.new_zeros(2, 1, 3), accumulate=True
            ),
            "an index of several dims",
        ),
    ],
)
def test_what_is_refused(forward: Refused, words: str) -> None:
    with pytest.raises(graphshard.UnsupportedOperation, match=words):
        assert_equivalent(model_of(forward), {"x": graph().x, "edge_index": graph().edge_index}, 2)
