"""Dense products on the cheaper side of an aggregation."""

from __future__ import annotations

from support.faster_models import fixed_features, mean, projected, shrinking
from support.programs import before_pass, check_faster, model_of, once_ops
from torch import Tensor

PASS = "reassociate_aggregations"


def test_features_that_never_change_are_aggregated_once() -> None:
    program = check_faster(fixed_features, PASS, "t matmul", 1)
    assert once_ops(program)[-2:] == ["halo_sync", "weighted_sum"]


def test_a_product_that_shortens_rows_comes_first() -> None:
    check_faster(shrinking, PASS, "linear tanh halo_sync linear weighted_sum add", 1)
    # The division of a mean is in the weights by now, so it does not stand between.
    check_faster(mean, PASS, "linear tanh halo_sync linear weighted_sum add", 1)


def test_a_projection_is_one_product() -> None:
    check_faster(projected, PASS, "view project_weight linear", 1)


def lengthening(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    h = self.lin(x).tanh()
    total = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])
    return total @ self.lin.weight.new_ones(6, 9)


def used_twice(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    src, dst = edge_index
    h = self.lin(x).tanh()
    total = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])
    return total, self.out(total)


def test_what_would_cost_more_is_left_alone() -> None:
    for forward in (lengthening, used_twice):
        program, step = before_pass(model_of(forward), PASS)
        assert step.run(program) == 0
