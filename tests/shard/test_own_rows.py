"""Node parameters outside of forward: read as the whole table, stepped row by row; what cannot be right is refused."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


OUTSIDE: dict[str, Callable[[Any], Tensor]] = {
    "mean": lambda model: model.table.square().mean(),
    "every": lambda model: sum(p.norm() for p in model.parameters()),
    "spread": lambda model: model.table.std(),
    "loss": lambda model: F.l1_loss(model.table, torch.zeros_like(model.table)),
    "largest": lambda model: model.table.data.abs().max() * model.table.sum(),
    "gram": lambda model: (model.table.T @ model.table).square().sum(),
    "sizes": lambda model: (
        model.table.sum() / sum(p.numel() for p in model.parameters()) / model.table.shape[0]
    ),
    "derivative": lambda model: torch.autograd.grad(
        model.table.pow(3).sum(), [model.table], create_graph=True
    )[0].norm(),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_table_outside_of_forward_is_the_whole_one(name: str) -> None:
    single = Table()
    expected = OUTSIDE[name](single)
    expected.backward()  # type: ignore[no-untyped-call]
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> list[Tensor]:
        model = graphshard.distribute(
            models[number], group=group, shard=parts[number], node_parameters=["table"]
        )
        found = OUTSIDE[name](model)
        found.backward()  # type: ignore[no-untyped-call]
        gradient = parts[number].gather(model.table.grad, group)
        return [found.local(), gradient.local()]  # type: ignore[attr-defined]

    for value, gradient in run_ranks(2, rank):
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, single.table.grad)


def initialised(model: Any) -> Tensor:
    nn.init.constant_(model.table, 0.5)
    return model.table.sum()  # type: ignore[no-any-return]


def clamped(model: Any) -> Tensor:
    with torch.no_grad():
        model.table.clamp_(0, 0.3)
    return model.table.sum()  # type: ignore[no-any-return]


def averaged(model: Any) -> Tensor:
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    average.update_parameters(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update_parameters(model)
    return average.module.table.square().sum()  # type: ignore[no-any-return, union-attr, operator]


WITHOUT_GRADIENT: dict[str, Callable[[Any], Tensor]] = {
    "initialised": initialised,
    "clamped": clamped,
    "averaged": averaged,
    "normalised": lambda model: F.normalize(model.table.detach()).sum(),
    "another dtype": lambda model: model.float().table.sum(),
    "copied": lambda model: copy.deepcopy(model).table.sum(),
    "glorot": lambda model: nn.init.xavier_uniform_(model.table).abs().max() < (6 / (N + 4)) ** 0.5,
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_what_is_done_to_a_table_is_done_to_all_rows(name: str) -> None:
    expected = WITHOUT_GRADIENT[name](Table())
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> Tensor:
        model = graphshard.distribute(
            models[number], group=group, shard=parts[number], node_parameters=["table"]
        )
        found: Tensor = WITHOUT_GRADIENT[name](model).local()  # type: ignore[attr-defined]
        return found

    for value in run_ranks(2, rank):
        torch.testing.assert_close(value, expected)


class Lamb(torch.optim.Optimizer):
    """You et al., Large batch optimization, 2020: the length of a step is that of the parameter."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["first"], state["second"] = torch.zeros_like(p), torch.zeros_like(p.data)
                state["first"].mul_(0.9).add_(p.grad, alpha=0.1)
                state["second"].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
                update = state["first"] / (state["second"].sqrt() + 1e-6)
                p.data.add_(update * (p.data.norm() / update.norm()), alpha=-group["lr"])


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "of lists": lambda p: torch.optim.RAdam(p, lr=0.1, weight_decay=0.1, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "state at once": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "by sign": lambda p: torch.optim.Rprop(p, lr=0.1),
    "norms of its own": lambda p: Lamb(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_makes_the_steps_of_one_machine(name: str) -> None:
    def trained_by(model: Any) -> torch.optim.Optimizer:
        optimizer = OPTIMIZERS[name](model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            (model.table.pow(2).mean() + model.lin.weight.sum()).backward()
            optimizer.step()
        return optimizer

    single = Table()
    wanted = trained_by(single).state_dict()["state"]
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> Any:
        model = graphshard.distribute(
            models[number], group=group, shard=parts[number], node_parameters=["table"]
        )
        optimizer = trained_by(model)
        assert all(
            type(v) is Tensor for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)
        )
        return model.state_dict(), model.optimizer_state_dict(optimizer)["state"]

    for state, moments in run_ranks(2, rank):
        torch.testing.assert_close(dict(state), dict(single.state_dict()))
        torch.testing.assert_close(moments, wanted)


@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, float("inf"), -float("inf")]),
    st.lists(st.integers(0, 1), min_size=N, max_size=N),
)
def test_norms_of_any_order(order: float, cut: list[int]) -> None:
    single = Table()
    single.table.pow(2).sum().backward()  # type: ignore[no-untyped-call]
    assert single.table.grad is not None
    expected = torch.linalg.vector_norm(single.table.grad, order)
    parts, models = shards(2, torch.tensor(cut)), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> Tensor:
        model = graphshard.distribute(
            models[number], group=group, shard=parts[number], node_parameters=["table"]
        )
        model.table.pow(2).sum().backward()
        found: Tensor = torch.linalg.vector_norm(model.table.grad, order).local()  # type: ignore[attr-defined]
        return found

    for one in run_ranks(2, rank):
        torch.testing.assert_close(one, expected)


def test_the_gradient_is_that_of_all_rows() -> None:
    takes: tuple[Callable[[Tensor], Tensor], ...] = (
        Tensor.sum,
        lambda gradient: gradient.abs().max(),
        lambda gradient: gradient.norm(dim=0),
        lambda gradient: gradient.isfinite().all(),
        lambda gradient: torch.isnan(gradient).any(),
        lambda gradient: (gradient.abs() > 1).sum(),
    )
    single = Table()
    single(EDGES).sum().backward()
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> list[Tensor]:
        part = parts[number]
        model = graphshard.distribute(models[number], group=group, shard=part, node_parameters=["table"])
        model(part.edge_index).sum().backward()
        found = [take(model.table.grad).local() for take in takes]  # type: ignore[attr-defined]
        model.zero_grad(set_to_none=False)
        assert not model.table.grad.norm()
        return found

    assert single.table.grad is not None
    for found in run_ranks(2, rank):
        for one, take in zip(found, takes, strict=True):
            torch.testing.assert_close(one, take(single.table.grad))


def test_a_submodule_gives_no_file_of_one_ranks_rows() -> None:
    parts, models = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> None:
        model = graphshard.distribute(
            models[number], group=group, shard=parts[number], node_parameters=["table"]
        )
        with pytest.raises(TypeError, match="part of one of the whole graph, not saved as it is"):
            torch.save(model.table.detach(), io.BytesIO())
        with pytest.raises(graphshard.UnsupportedOperation, match="set to a plain tensor"):
            model.table.data = X.clone()
        model.table.data = parts[number].scatter(X + 1, "node")
        assert torch.equal(model.state_dict()["table"], X + 1)

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

        with pytest.raises(
            graphshard.UnsupportedOperation, match="LBFGS computes with all numbers of a parameter"
        ):
            torch.optim.LBFGS(model.parameters()).step(closure)
        torch.optim.LBFGS(model.lin.parameters(), max_iter=2).step(closure)

    run_ranks(2, rank)
