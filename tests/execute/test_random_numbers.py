"""Random numbers of a distributed module: others in every call and module, and those of before after a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks


class Drop(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Noise(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Always(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class Plain(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return 2 * x


def graph() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 60, (2, 200), generator=generator)
    return {"x": torch.ones(60, 4, dtype=torch.float64), "edge_index": edges}


@pytest.mark.parametrize("make", [Noise, Always])
@pytest.mark.parametrize("seed", [None, 3])
def test_calls_in_evaluation_differ_too(make: type[nn.Module], seed: int | None) -> None:
    shard = graphshard.partition(graph(), 1)[0]
    model = graphshard.distribute(make(), seed=seed).eval()
    assert not torch.equal(model(shard), model(shard))


@pytest.mark.parametrize("make", [Drop, Noise])
def test_modules_made_after_one_seed_differ(make: type[nn.Module]) -> None:
    shard = graphshard.partition(graph(), 1)[0]
    torch.manual_seed(0)
    one, other = graphshard.distribute(make()), graphshard.distribute(make())
    assert not torch.equal(one(shard), other(shard))


@pytest.mark.parametrize("make", [Drop, Noise])
def test_torchs_generator_decides(make: type[nn.Module]) -> None:
    """As on one machine: its state in a checkpoint resumes, a seed repeats."""
    shard = graphshard.partition(graph(), 1)[0]
    torch.manual_seed(0)
    model = graphshard.distribute(make())
    first = [model(shard) for _ in range(2)]
    state = torch.get_rng_state()
    wanted = model(shard)
    again = graphshard.distribute(make())
    torch.set_rng_state(state)
    assert torch.equal(again(shard), wanted)
    torch.manual_seed(0)
    assert all(torch.equal(again(shard), one) for one in first)


def test_a_given_seed_resumes_with_the_step() -> None:
    shard = graphshard.partition(graph(), 1)[0]
    model = graphshard.distribute(Drop(), seed=5)
    model(shard)
    step = model.step
    wanted = model(shard)
    again = graphshard.distribute(Drop(), seed=5)
    again.step = step
    assert torch.equal(again(shard), wanted)


def test_a_model_without_random_numbers_draws_none() -> None:
    shard = graphshard.partition(graph(), 1)[0]
    model = graphshard.distribute(Plain())
    state = torch.get_rng_state()
    model(shard)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.eval()(shard) is not None
    assert model.step == 1


def test_ranks_use_the_first_ranks_numbers() -> None:
    """The same mask on any number of ranks; and evaluation between training steps moves all of them on."""
    shards = {k: graphshard.partition(graph(), k) for k in (1, 3)}
    models = {k: [Drop() for _ in range(k)] for k in shards}

    def rank(number: int, _: str, group: Any) -> list[Tensor]:
        parts = shards[group.size()]
        model = graphshard.distribute(models[group.size()][number], group=group)
        return [parts[number].gather(model(parts[number]), group=group) for _ in range(2)]

    found = []
    for k in shards:
        torch.manual_seed(1)
        found.append(run_ranks(k, rank))
    for mine in found[1]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][0], mine, strict=True))
    assert not torch.equal(*found[1][0])
