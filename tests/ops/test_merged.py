"""Several exchanges in one message, several gradients in one all-reduce: values and gradients as one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.equality import check_equal
from support.programs import model_of
from support.strategies import fixed_case
from torch import Tensor

from graphshard.ops import exchange as ops
from graphshard.ops.merged import bucketed_inputs, merged_sync
from graphshard.testing import run_ranks

# One rank that exchanges with itself: its halo rows are copies of its own rows 2, 0, 2.
SELF = (torch.tensor([2, 0, 2]), [3], [3])


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def test_values_are_those_of_syncs_one_by_one() -> None:
    a, b = rows(4, 3, 2), rows(4)
    found = merged_sync([a, b], *SELF, "")
    for one, value in zip(found, (a, b), strict=True):
        assert torch.equal(one, ops.halo_sync(value, *SELF, ""))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_gradients(needs: tuple[bool, bool]) -> None:
    """First and second ones, whichever of the values need any."""
    values = [rows(4, 2).requires_grad_(needs[0]), rows(4, 3).requires_grad_(needs[1])]
    chosen = [v for v in values if v.requires_grad]

    def together(*given: Tensor) -> tuple[Tensor, ...]:
        left = list(given)
        found = merged_sync([left.pop(0) if v.requires_grad else v for v in values], *SELF, "")
        return tuple(f.sin() for f, v in zip(found, values, strict=True) if v.requires_grad)

    assert torch.autograd.gradcheck(together, chosen)
    assert torch.autograd.gradgradcheck(together, chosen)


def test_a_value_without_gradient_has_none_afterwards() -> None:
    found = merged_sync([rows(4, 2), torch.ones(4, dtype=torch.float64)], *SELF, "")
    assert [f.requires_grad for f in found] == [True, False]


def test_a_narrow_wire_rounds_halo_rows_and_their_gradients_alone() -> None:
    value = rows(4, 3)
    (found,) = merged_sync([value], *SELF, "", torch.bfloat16)
    assert found.dtype == torch.float64
    assert torch.equal(found[:4], value)
    assert torch.equal(found[4:], value[[2, 0, 2]].bfloat16().double())
    grad = torch.randn(7, 3, dtype=torch.float64)
    found.backward(grad)
    sent = grad[4:].bfloat16().double()
    assert value.grad is not None
    assert torch.equal(value.grad[0], grad[0] + sent[1])
    assert torch.equal(value.grad[1], grad[1])
    assert torch.equal(value.grad[2], grad[2] + sent[0] + sent[2])


def counted_degrees(self: object, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> list[Tensor]:
    """A constant of the graph and a value with a gradient, read by the same edges; found by the fuzzer."""
    src, dst = edge_index
    centred = F.layer_norm(x, (5,))
    degree = x.new_zeros(x.size(0)).index_add(0, dst, torch.ones_like(edge_weight)).clamp(min=1)
    summed = torch.zeros_like(x).index_add(0, dst, centred[src] * edge_weight.view(-1, 1))
    return [summed, torch.index_select(degree, 0, src)]


def test_an_output_needs_a_gradient_where_it_does_on_one_machine() -> None:
    case = fixed_case()
    tensors = {name: case.tensors[name] for name in ("x", "edge_index", "edge_weight")}
    check_equal(model_of(counted_degrees), tensors, case.assignment, case.parts)


def test_a_bucket_sums_each_gradient_over_the_ranks() -> None:
    def rank(number: int, _name: str, group: object) -> list[Tensor | None]:
        name = str(group.group_name)  # type: ignore[attr-defined]
        values = [torch.ones(2, 3), torch.ones(4, dtype=torch.float64), torch.ones(5)]
        leaves = [v.requires_grad_(i != 2) for i, v in enumerate(values)]
        found = bucketed_inputs(leaves, name)
        assert [f.requires_grad for f in found] == [True, True, False]
        sum((f.double().sum() * (number + i + 1) for i, f in enumerate(found)), torch.zeros(())).backward()
        return [leaf.grad for leaf in leaves]

    for grads in run_ranks(3, rank):
        assert torch.equal(grads[0], torch.full((2, 3), 6.0))  # type: ignore[arg-type]
        assert torch.equal(grads[1], torch.full((4,), 9.0, dtype=torch.float64))  # type: ignore[arg-type]
        assert grads[2] is None
