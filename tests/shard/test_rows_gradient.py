"""Around node parameters: the norm of a gradient is that of all rows; what cannot be right is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wrapped import EDGES, N, X, neighbours, shards
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(X.clone())
        self.lin = nn.Linear(4, 3).double()
        self.lin.load_state_dict({"weight": X[:3], "bias": X[0, :3]})

    def forward(self, edge_index: Tensor) -> Tensor:
        return self.lin(neighbours(self.table, edge_index))  # type: ignore[no-any-return]


def trained(model: Any, total: Tensor, optimizer: torch.optim.Optimizer, clip: Any) -> Any:
    total.backward()
    found = clip(model)
    optimizer.step()
    return found


def clipped(order: float, foreach: bool | None = None) -> Any:
    def clip(model: nn.Module) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05, norm_type=order, foreach=foreach)

    return clip


def by_hand(model: nn.Module) -> Tensor:
    total = sum(p.grad.data.norm(2).item() ** 2 for p in model.parameters() if p.grad is not None) ** 0.5
    for p in model.parameters():
        assert p.grad is not None
        p.grad.mul_(0.05 / total)
    return torch.tensor(total, dtype=torch.float64)


def by_value(model: nn.Module) -> Tensor:
    torch.nn.utils.clip_grad_value_(model.parameters(), 0.2)
    return torch.zeros((), dtype=torch.float64)


def per_parameter(model: nn.Module) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(p.grad) for p in model.parameters() if p.grad is not None])


CLIPS = {
    "2": clipped(2.0),
    "1": clipped(1.0),
    "infinite": clipped(float("inf")),
    "one by one": clipped(2.0, foreach=False),
    "by hand": by_hand,
    "by value": by_value,
    "each": per_parameter,
}


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, torch.optim.SGD) for name in CLIPS), ("2", torch.optim.Adam)]
)
def test_a_gradient_is_clipped_by_the_norm_of_all_rows(name: str, kind: Any) -> None:
    single = Table()
    expected = trained(single, single(EDGES).square().sum(), kind(single.parameters(), lr=0.1), CLIPS[name])
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> tuple[Tensor, Any]:
        part = parts[number]
        model = graphshard.distribute(models[number], group=group, shard=part, node_parameters=["table"])
        total = graphshard.sum(model(part.edge_index).square(), group)
        optimizer = kind(model.parameters(), lr=0.1)
        found = trained(model, total, optimizer, CLIPS[name])
        for state in optimizer.state.values():
            assert all(type(value) is Tensor for value in state.values() if isinstance(value, Tensor))
        return found, model.state_dict()

    for found, state in run_ranks(2, rank):
        torch.testing.assert_close(found, expected)
        for key, value in single.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, float("inf"), -float("inf")]),
    st.lists(st.integers(0, 2), min_size=N, max_size=N),
)
def test_norms_of_any_order(order: float, cut: list[int]) -> None:
    from graphshard.shard.rows_gradient import as_rows

    rows = [X[torch.tensor(cut) == part] - 0.5 for part in range(3)]
    expected = torch.linalg.vector_norm(X - 0.5, order)
    found = run_ranks(3, lambda number, name, _: torch.linalg.vector_norm(as_rows(rows[number], name), order))
    for one in found:
        torch.testing.assert_close(one, expected)


def test_numbers_of_one_ranks_rows_are_refused() -> None:
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> None:
        part = parts[number]
        model = graphshard.distribute(models[number], group=group, shard=part, node_parameters=["table"])
        graphshard.sum(model(part.edge_index), group).backward()
        gradient = model.table.grad
        for take in (
            gradient.sum,
            lambda: gradient.abs().max(),
            lambda: gradient.norm(dim=0),
            lambda: gradient.isfinite().all(),
            lambda: torch.isnan(gradient).any(),
            (gradient.abs() > 1).sum,
            lambda: torch.linalg.norm(gradient, 2),
            lambda: torch.cat([gradient.view(-1), gradient.view(-1)]),
        ):
            with pytest.raises(graphshard.UnsupportedOperation, match="of a node parameter"):
                take()
        model.zero_grad(set_to_none=False)
        assert not model.table.grad.norm()

    run_ranks(2, rank)


def test_an_optimiser_that_was_made_before_is_refused() -> None:
    plain, part = Table(), shards(1)[0]
    before = torch.optim.Adam(plain.parameters())
    model = graphshard.distribute(plain, shard=part, node_parameters=["table"])
    model(part.edge_index).sum().backward()
    with pytest.raises(
        graphshard.ShardError, match=r"whole node parameter 'table'.*make the optimiser after"
    ):
        before.step()
    torch.optim.Adam(model.parameters()).step()
    plain(EDGES).sum().backward()
    before.step()  # the user's own module, trained by itself


def test_lbfgs_over_node_parameters_is_refused_on_several_ranks() -> None:
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> None:
        part = parts[number]
        model = graphshard.distribute(models[number], group=group, shard=part, node_parameters=["table"])

        def closure() -> Tensor:
            loss = graphshard.sum(model(part.edge_index).square(), group)
            loss.backward()
            return loss

        with pytest.raises(graphshard.UnsupportedOperation, match="LBFGS takes products of all parameters"):
            torch.optim.LBFGS(model.parameters()).step(closure)
        torch.optim.LBFGS(model.lin.parameters(), max_iter=2).step(closure)

    run_ranks(2, rank)
