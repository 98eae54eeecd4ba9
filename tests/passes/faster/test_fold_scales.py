"""A constant factor of each row in the weights of its edges."""

from __future__ import annotations

from support.faster_models import mean, weighted
from support.programs import before_pass, check_faster, model_of, once_ops
from torch import Tensor


def test_a_mean_is_a_weighted_sum() -> None:
    program = check_faster(mean, "fold_scales", "linear tanh halo_sync weighted_sum linear", 1)
    assert once_ops(program)[-1] == "row_weights"


def learned_scale(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
    return weighted(self, x, edge_index, edge_weight) * self.lin(x)[:, :1]


def test_a_factor_that_changes_is_left_alone() -> None:
    program, step = before_pass(model_of(learned_scale), "fold_scales")
    assert step.run(program) == 0
