"""A sum over neighbours and the own row, each times a matrix, as one op."""

from __future__ import annotations

import pytest
import torch
from support.faster_models import rooted, rooted_square, shrinking
from support.models import make
from support.programs import before_pass, check_faster, model_of
from support.strategies import fixed_case
from torch import Tensor, nn

import graphshard
from graphshard import Options
from graphshard.testing import assert_equivalent
from graphshard.tools.bench import pyg_models

PASS = "fuse_root_weights"


def test_a_layer_that_shortens_rows() -> None:
    check_faster(rooted, PASS, "linear tanh weighted_sum tanh mul rooted_sum", 1)


def test_a_layer_that_keeps_their_width() -> None:
    check_faster(
        rooted_square,
        PASS,
        "linear tanh t matmul mul rooted_sum",
        1,
        without="move_halo_syncs reassociate_aggregations",
    )


def test_no_root_another_root_and_a_sum_that_is_read_again() -> None:
    def other_root(self, x, edge_index):
        return shrinking(self, x, edge_index) + self.out(self.lin(x))

    def read_again(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x).tanh()
        total = self.out(h.new_zeros(h.size(0), 6).index_add(0, edge_index[1], h[edge_index[0]]))
        return total + nn.functional.linear(h, self.out.weight), total.exp()

    for forward in (shrinking, other_root, read_again):
        program, step = before_pass(model_of(forward), PASS, "move_halo_syncs")
        assert step.run(program) == 0


@pytest.mark.parametrize("without", [(), (PASS,), (PASS, "stream_halo_syncs")])
def test_gradients_of_any_order_equal_one_machine(without: tuple[str, ...]) -> None:
    """Of GraphSAGE with three layers: one that widens rows, one that keeps them, one that shortens them."""
    case = fixed_case(parts=3)
    data = {name: case.tensors[name] for name in ("x", "edge_index")}
    model = make(lambda: pyg_models.make("sage3", case.tensors["x"].size(1), 40, 3))
    options = Options(**dict.fromkeys(without, False))  # type: ignore[arg-type]
    report = assert_equivalent(model, data, 3, dtype=torch.float64, options=options)
    kinds = {row.kind for row in report.rows}
    assert ("rooted sum" in kinds) == (not without)
    assert "gradient, second step" in kinds


def test_a_frozen_matrix_has_no_gradient() -> None:
    case = fixed_case(parts=2)
    data = {name: case.tensors[name] for name in ("x", "edge_index")}
    model = make(lambda: pyg_models.make("sage", case.tensors["x"].size(1), 6, 3))
    frozen, trained = (model.get_parameter(f"second.{name}.weight") for name in ("lin_l", "lin_r"))
    frozen.requires_grad_(False)
    assert_equivalent(model, data, 2, dtype=torch.float64)
    shard = graphshard.partition(data, 1)[0]
    ours = graphshard.distribute(model)
    ours(shard).sum().backward()
    assert frozen.grad is None
    assert trained.grad is not None
