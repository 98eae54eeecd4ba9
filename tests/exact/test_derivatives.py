"""Derivatives of any order, with respect to parameters, inputs and cotangents, are those of one machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.equality import TOLERANCE
from torch import Tensor, nn
from torch.autograd import grad
from torch_geometric.nn import GATConv, GCNConv, global_add_pool

import graphshard
from graphshard import Options
from graphshard.testing import run_ranks

Mean = Callable[[Tensor], Tensor]
Derive = Callable[[nn.Module, Any, Mean], list[Tensor]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = GCNConv(5, 6), nn.Parameter(torch.tensor(0.7))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden: Tensor = self.conv(x * self.scale, edge_index)
        return self.out(hidden.tanh())  # type: ignore[no-any-return]


class Energy(Net):
    """One number of the whole graph, equal on all ranks."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        rows = super().forward(x, edge_index)
        return (rows.sigmoid() ** 2).sum() / 10


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = GATConv(5, 3, heads=2, concat=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index).tanh()  # type: ignore[no-any-return]


class Pooled(Net):
    """A row for each of three graphs, equal on all ranks."""

    def forward(self, x: Tensor, edge_index: Tensor, graphs: Tensor) -> Tensor:  # type: ignore[override]
        return global_add_pool(super().forward(x, edge_index), graphs, size=3).tanh()  # type: ignore[no-any-return]


class Graph:
    """A whole graph, under the names that a shard has."""

    def __init__(self, nodes: int = 20, edges: int = 70, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(nodes, 5, generator=g, dtype=torch.float64)
        self.edge_index = torch.randint(0, nodes, (2, edges), generator=g)
        self.y = torch.randint(0, 3, (nodes,), generator=g)
        self.graphs = torch.randint(0, 3, (nodes,), generator=g)


def row_loss(model: nn.Module, data: Any, mean: Mean) -> Tensor:
    rows = model(data.x, data.edge_index)
    return mean(nn.functional.cross_entropy(rows, data.y, reduction="none"))


def hessian_vector(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    weights = list(model.parameters())
    first = grad(row_loss(model, data, mean), weights, create_graph=True)
    products = [(g * w.cos()).sum() for g, w in zip(first, weights, strict=True)]
    return list(grad(torch.stack(products).sum(), weights))


def gradient_penalty(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    """The norm of the gradient is a term of the loss, as in penalties on sharp minima."""
    weights = list(model.parameters())
    loss = row_loss(model, data, mean)
    norm = torch.stack([g.pow(2).sum() for g in grad(loss, weights, create_graph=True)]).sum().sqrt()
    return list(grad(loss * norm + norm, weights))


def maml(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    """One step of training inside of another."""
    weights = dict(model.named_parameters())
    first = grad(row_loss(model, data, mean), list(weights.values()), create_graph=True)
    stepped = [w - 0.5 * g for w, g in zip(weights.values(), first, strict=True)]
    return list(grad(torch.stack([s.pow(4).sum() for s in stepped]).sum(), list(weights.values())))


def third_order(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    weights = list(model.parameters())
    found = row_loss(model, data, mean)
    for _ in range(2):
        found = sum(g.sin().sum() for g in grad(found, weights, create_graph=True))  # type: ignore[assignment]
    return list(grad(found, weights))


def forces(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    """A loss of the derivatives by the inputs; the derivatives themselves are rows."""
    x = data.x.detach().requires_grad_()
    energy = model(x, data.edge_index)
    (force,) = grad(energy, x, create_graph=True)
    return list(grad(mean(force.pow(2).sum(1)) + energy**2, list(model.parameters())))


def square_of_output(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    """The cotangent of an output that all ranks hold depends on that output."""
    weights = list(model.parameters())
    first = grad(model(data.x, data.edge_index).exp(), weights, create_graph=True)
    return list(grad(torch.stack([g.pow(3).sum() for g in first]).sum(), weights))


def vector_jacobian_of_vector(model: nn.Module, data: Any, mean: Mean) -> list[Tensor]:
    """Forward mode by two backward passes: the derivative by the cotangent of an output."""
    weights = list(model.parameters())
    out = model(data.x, data.edge_index, data.graphs)
    cotangent = torch.full_like(out, 0.3, requires_grad=True)
    products = grad(out, weights, cotangent, create_graph=True)
    (along,) = grad(torch.stack([p.sin().sum() for p in products]).sum(), cotangent, create_graph=True)
    return [along.detach(), *grad(along.pow(2).sum(), weights)]


CASES: list[tuple[type[nn.Module], Derive]] = [
    (Net, hessian_vector),
    (Attention, hessian_vector),
    (Net, gradient_penalty),
    (Net, maml),
    (Net, third_order),
    (Energy, forces),
    (Energy, square_of_output),
    (Pooled, vector_jacobian_of_vector),
]


def on_ranks(
    kind: type[nn.Module], derive: Derive, data: Graph, ranks: int, options: Options | None = None
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """What one machine finds, and each rank."""

    def made() -> nn.Module:
        torch.manual_seed(3)
        return kind().double()

    roles = {"x": "node", "y": "node", "graphs": "node"}
    parts = graphshard.partition(vars(data), ranks, num_nodes=data.x.size(0), roles=roles)
    models = [made() for _ in range(ranks)]  # torch's generator is that of the whole process

    def rank(number: int, _: str, group: Any) -> list[Tensor]:
        model = graphshard.distribute(models[number], group=group, options=options)
        return derive(model, parts[number], lambda rows: graphshard.mean(rows, group))

    return derive(made(), data, torch.mean), run_ranks(ranks, rank)


@pytest.mark.parametrize(("kind", "derive"), CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("ranks", [2, 3])
def test_derivatives_of_any_order(kind: type[nn.Module], derive: Derive, ranks: int) -> None:
    expected, found = on_ranks(kind, derive, Graph(), ranks)
    for rank in found:
        for mine, right in zip(rank, expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("kind", "derive"), CASES[:1] + CASES[5:6], ids=lambda case: case.__name__)
def test_without_a_faster_pass(kind: type[nn.Module], derive: Derive) -> None:
    expected, found = on_ranks(kind, derive, Graph(), 2, Options.none())
    for mine, right in zip(found[1], expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=5, deadline=None)
@given(st.integers(3, 12), st.integers(1, 30), st.integers(0, 1 << 20))
def test_on_random_graphs(nodes: int, edges: int, seed: int) -> None:
    expected, found = on_ranks(Net, gradient_penalty, Graph(nodes, edges, seed), 2)
    for mine, right in zip(found[0], expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=TOLERANCE, atol=TOLERANCE)
