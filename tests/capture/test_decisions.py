"""Forward decides by its buffers: each way is captured, and the one that runs is that of the buffers of now."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.wrapped import EDGES, X, neighbours, shards
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks


class Counted(nn.Module):
    """A normaliser that gathers statistics until it has seen enough, as MeshGraphNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4).double()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("enough", torch.tensor(2))

    calls: Tensor
    total: Tensor
    enough: Tensor

    def decide(self, x: Tensor) -> None:
        if self.training and self.calls < self.enough:
            self.total += x.mean(0)
            self.calls += 1

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.decide(x)
        return neighbours(self.lin(x - self.total / self.calls.clamp(min=1)), edge_index)


class WarmUp(Counted):
    """Two decisions, the second in one way of the first; the counter is written before it is looked at."""

    def decide(self, x: Tensor) -> None:
        self.calls += 1
        if self.calls <= self.enough:
            self.total += x.sum(0)
        elif bool((self.calls % 2 == 0).all()):
            self.total -= 1


class Loop(Counted):
    """A while over a number that buffers give, and a view of a buffer that decides."""

    def decide(self, x: Tensor) -> None:
        left = self.enough - self.calls
        while left > 0:
            self.total += x.mean(0)
            left = left - 1
        first = self.enough.new_ones(2)[:1]
        if first + self.calls > 2:
            self.total.mul_(0.5)
        self.calls += 1


class Together(Counted):
    """A buffer of flags, written from itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))

    flags: Tensor

    def decide(self, x: Tensor) -> None:
        if not self.flags.all():
            self.flags.copy_(torch.arange(3) <= self.flags.sum())
            self.total += x.amax(0)


@pytest.mark.parametrize("kind", [Counted, WarmUp, Loop, Together])
def test_training_equals_one_machine(kind: Callable[[], Counted]) -> None:
    single = kind()
    models = [copy.deepcopy(single) for _ in range(2)]
    parts = shards()

    def trained(model: Any, x: Any, edge_index: Any) -> list[float]:
        optimizer, losses = torch.optim.SGD(model.parameters(), 0.01), []
        for step in range(6):
            model.train(step != 3)
            optimizer.zero_grad()
            loss = model(x, edge_index).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().item())
        return losses

    expected = trained(single, X, EDGES)

    def rank(number: int, _name: str, group: Any) -> Any:
        model = graphshard.distribute(models[number], group=group)
        return trained(model, parts[number].x, parts[number].edge_index), dict(model.state_dict())

    for losses, state in run_ranks(2, rank):
        assert losses == pytest.approx(expected, rel=1e-10)
        torch.testing.assert_close(state, dict(single.state_dict()))


def test_a_buffer_that_is_set_between_calls_is_looked_at_anew() -> None:
    model = Counted()
    distributed = graphshard.distribute(model)
    distributed(X, EDGES)
    model.calls.fill_(2)
    distributed(X, EDGES)
    assert model.calls == 2
    model.calls.fill_(0)
    distributed(X, EDGES)
    assert model.calls == 1
    distributed.load_state_dict(Counted().state_dict())
    distributed(X, EDGES)
    assert model.calls == 1


class ByTheGraph(Counted):
    def decide(self, x: Tensor) -> None:
        self.total += x.mean(0)
        if self.total.sum() > 0:
            self.calls += 1


class ByAView(Counted):
    def decide(self, x: Tensor) -> None:
        self.total[:2].copy_(x.mean(0)[:2])
        if self.total.sum() > 0:
            self.calls += 1


class ByChance(Counted):
    def decide(self, x: Tensor) -> None:
        if torch.rand_like(self.calls) > 0.5:
            self.calls += 1


class ByAParameter(Counted):
    def decide(self, x: Tensor) -> None:
        if self.lin.bias.sum() > 0:
            self.calls += 1


@pytest.mark.parametrize("kind", [ByTheGraph, ByAView, ByChance, ByAParameter])
def test_what_depends_on_more_than_buffers_is_refused(kind: Callable[[], nn.Module]) -> None:
    with pytest.raises(graphshard.CaptureError, match="decides what to compute by looking at the data"):
        graphshard.distribute(kind())(X, EDGES)


class Always(Counted):
    def decide(self, x: Tensor) -> None:
        for number in range(18):
            if self.calls == number:
                self.total += number
        self.calls += 1


def test_a_new_way_in_every_call_comes_to_an_end() -> None:
    model = graphshard.distribute(Always())
    for _ in range(16):
        model(X, EDGES)
    with pytest.raises(graphshard.CaptureError, match="in 16 ways already"):
        model(X, EDGES)


def test_ranks_whose_buffers_lead_them_apart_are_named() -> None:
    parts, models = shards(), [Counted(), Counted()]

    def rank(number: int, _name: str, group: Any) -> None:
        model = graphshard.distribute(models[number], group=group)
        model(parts[number].x, parts[number].edge_index)
        model(parts[number].x, parts[number].edge_index)
        model(parts[number].x, parts[number].edge_index)
        models[number].calls.fill_(2 * number)
        model(parts[number].x, parts[number].edge_index)

    with pytest.raises(graphshard.RuntimeMismatch, match="what forward decides by its buffers is"):
        run_ranks(2, rank)
