"""Random ops: the same numbers on any number of ranks, distributed as they should be.

The reference is the same program on one rank: PyTorch's own generator has no notion of rows.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from support.equality import Compilations, check_equal, distributed
from support.models import Written, make
from support.programs import model_of, refusal
from support.strategies import Case, cases, examples, fixed_case
from torch import Tensor

from graphshard.kernels.random_bits import random_key
from graphshard.ops import local as local_ops


class Draws(Written):
    """Numbers for nodes, kept nodes, edges, and for what every rank holds."""

    def forward(self, x: Tensor, edge_index: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        h = self.lin(x)
        nodes = h * torch.rand_like(h) + torch.randn_like(h)
        coins = h * torch.bernoulli(h.detach().sigmoid()) + h * torch.empty_like(h).bernoulli_(0.3)
        choice = F.gumbel_softmax(h, tau=0.7)
        kept = (h[mask] * torch.rand_like(h[mask])).sum(0) * torch.randn(6, dtype=h.dtype)
        edges = h[edge_index[0]] * torch.rand(edge_index.size(1), 1, dtype=h.dtype)
        sized = h * torch.randn(h.size(0), 6, dtype=h.dtype)
        integers = torch.randint_like(h, 5) * h
        return nodes + coins + choice, kept, edges, sized + integers


class Activations(Written):
    """Random activations, and dropouts of their own kinds."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.lin(x)
        return (
            F.rrelu(h, 0.1, 0.4, training=True) + F.rrelu(h),
            F.alpha_dropout(h, 0.3, training=True) + F.alpha_dropout(h, 0.3, training=False),
            F.dropout1d(h.view(-1, 2, 3), 0.3, training=True)
            + F.feature_alpha_dropout(h, 0.3, training=False).sum(),
            F.dropout(F.dropout(h, 0.2), 0.3),
            h * torch.empty_like(h).uniform_(-1, 2) + torch.empty_like(h).normal_(1, 3),
        )


_KEPT = {cls: (make(cls), Compilations()) for cls in (Draws, Activations)}


@pytest.mark.parametrize("cls", _KEPT)
@examples(4)
@given(case=cases())
def test_random_numbers_do_not_depend_on_the_number_of_ranks(cls: type, case: Case) -> None:
    model, programs = _KEPT[cls]  # type: ignore[index]
    check_equal(model, case.tensors, case.assignment, case.parts, programs, one_rank=True)


def _numbers(kind: str, ids: Tensor, width: int, site: int = 0, step: int = 0) -> Tensor:
    return local_ops.random_like(
        torch.empty(ids.numel(), width).double(), ids, 0, kind, random_key(5, step), site
    )


def test_uniform_numbers() -> None:
    u = _numbers("uniform", torch.arange(4000), 9)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.01
    assert abs(float(u.var()) - 1 / 12) < 0.002
    assert abs(float(((u[:, 1:] - 0.5) * (u[:, :-1] - 0.5)).mean())) < 0.003


def test_normal_numbers() -> None:
    n = _numbers("normal", torch.arange(4000), 9)
    assert abs(float(n.mean())) < 0.02
    assert abs(float(n.var()) - 1) < 0.03
    assert abs(float((n**3).mean())) < 0.1
    assert abs(float((n**4).mean()) - 3) < 0.2
    assert abs(float((n[:, 1:] * n[:, :-1]).mean())) < 0.02


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_numbers_belong_to_rows_and_change_with_site_and_step(kind: str) -> None:
    order = torch.randperm(40)
    first = _numbers(kind, torch.arange(40), 3)
    assert torch.equal(_numbers(kind, order, 3), first[order])
    assert not torch.equal(_numbers(kind, torch.arange(40), 3, site=1), first)
    assert not torch.equal(_numbers(kind, torch.arange(40), 3, step=1), first)


def test_single_precision_stays_below_one() -> None:
    x = torch.empty(200_000, 4)
    assert float(local_ops.random_like(x, None, 0, "uniform", random_key(1, 0), 0).max()) < 1


def test_two_draws_of_one_value_differ() -> None:
    def forward(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) - torch.rand_like(x)

    case = fixed_case(parts=2)
    found, _ = distributed(model_of(forward), case.tensors, case.assignment, 2, Compilations(), None)
    assert found["output 0"].abs().sum() > 0  # type: ignore[union-attr]


def test_a_permutation_of_the_nodes_is_refused() -> None:
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)[torch.randperm(x.size(0))]

    message = refusal(model_of(forward))
    assert message.startswith("aten.randperm shuffles rows over all ranks")
    assert "test_random.py" in message
