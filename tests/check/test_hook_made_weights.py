"""Weights that hooks or parametrizations make: verified, and exact on ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.wrapped import EDGES, X, neighbours
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from graphshard.testing import assert_equivalent


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def halved(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Halved())
    return layer


MADE: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": torch.nn.utils.weight_norm,
    "spectral_norm": torch.nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "pruned twice": lambda layer: prune.random_structured(
        prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3, dim=0
    ),
    "parametrized": halved,
    "new weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


class Made(nn.Module):
    def __init__(self, change: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.out = nn.Linear(4, 4).double(), change(nn.Linear(4, 3).double())

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.out(neighbours(self.lin(x), edge_index).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm.:FutureWarning")
def test_a_weight_that_is_made_is_verified(name: str) -> None:
    given = Made(MADE[name])
    assert_equivalent(given, {"x": X, "edge_index": EDGES}, num_parts=2, modes=("train",))
    for parameter in given.parameters():
        assert parameter.grad is None


def test_a_copy_of_what_was_computed_is_none_of_the_original() -> None:
    from graphshard.check.copies import copied

    model = Made(MADE["pruned"])
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(model)
    other = copied(model)
    with torch.no_grad():
        other.get_parameter("out.weight_orig").zero_()
    assert model.out(torch.ones(1, 4).double()).ne(model.out.bias).any()
