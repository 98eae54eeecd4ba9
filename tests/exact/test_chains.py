"""Rewrites that feed each other: what a pass makes of one op is an argument of the next one of its kind.

The fuzzer found the first: a scatter by source whose base is the result of another.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.equality import check_equal
from support.programs import model_of
from support.strategies import fixed_case
from torch import Tensor, nn

Forward = Callable[..., object]


def scatters(self, x: Tensor, edge_index: Tensor, z: Tensor) -> list[Tensor]:
    src, dst = edge_index
    spread = src[:, None].expand(-1, 5)
    mean = x.scatter_reduce(0, spread, x[dst], "mean")
    top = mean.scatter_reduce(0, spread, x[dst], "amax")
    pooled = x.new_ones(4, 5).scatter_reduce(0, z[:, None].expand(-1, 5), x, "mean")
    return [
        top,
        x.scatter_reduce(0, spread, x[dst], "amax").scatter_reduce(0, spread, x[dst], "amin"),
        pooled.scatter_reduce(0, z[:, None].expand(-1, 5), x, "amax"),
    ]


def extremes(self, x: Tensor) -> list[Tensor]:
    top = x.amax(0)
    return [(x * top).amin(0), (x - x.max(0).values).max(), x.amax(0, keepdim=True).amin(0)]


def reductions(self, x: Tensor) -> list[Tensor]:
    h = self.lin(x)
    return [h.softmax(0).softmax(0), (h - h.mean(0)).var(0), (h / (h.std(0) + 1)).mean()]


def stacked(self, x: Tensor) -> list[Tensor]:
    h = self.lin(x).tanh()
    return [(h + h.logsumexp(0)).logsumexp(0), (h * h.prod(0)).prod(0), (h / h.norm()).norm(dim=0)]


def norms(self, x: Tensor) -> Tensor:
    return self.second(self.first(self.lin(x)).tanh() + 1)


def losses(self, x: Tensor, target: Tensor, y: Tensor) -> list[Tensor]:
    h = self.lin(x)[:, :3]
    return [
        F.mse_loss(h * F.mse_loss(h, target), target),
        F.cross_entropy(h * F.cross_entropy(h, y), y),
    ]


@pytest.mark.parametrize("forward", [scatters, extremes, reductions, stacked, norms, losses])
@pytest.mark.parametrize("ties", [False, True])
def test_chains(forward: Forward, ties: bool) -> None:
    model = model_of(forward, first=nn.BatchNorm1d(6), second=nn.BatchNorm1d(6))
    case = fixed_case(parts=4, ties=ties)
    check_equal(model, case.tensors, case.assignment, case.parts)


def dropouts(self, x: Tensor) -> Tensor:
    h = F.dropout(torch.rand_like(x) * x, 0.3)
    return F.dropout(h + torch.randn_like(h), 0.5)


def test_random_chains() -> None:
    case = fixed_case(parts=4)
    check_equal(model_of(dropouts), case.tensors, case.assignment, case.parts, one_rank=True)
