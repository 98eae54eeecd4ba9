"""Masks that keep whole segments: a layer that gives its own self loops another weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from support.equality import check_equal
from support.models import F_IN, OnGraph, make, pyg
from support.programs import model_of, program_of
from support.strategies import Case, cases, examples, fixed_case
from torch import Tensor

from graphshard.ir.placement import Joined, Kept, Placed


@examples(6)
@given(case=cases())
def test_weights_of_added_self_loops(case: Case) -> None:
    model = make(lambda: OnGraph(pyg.ClusterGCNConv(F_IN, 4, diag_lambda=0.3)))
    check_equal(model, case.tensors, case.assignment, case.parts)


def _with_loops(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Loops first, in the other spelling of each step."""
    src, dst = edge_index
    keep, own = src != dst, torch.arange(x.size(0))
    src, dst = torch.cat([own, src[keep]]), torch.cat([own, dst[keep]])
    weight = x.new_ones(src.size(0))
    weight[src == dst] = self.lin(x)[:, 0]
    rest = torch.where(src != dst, weight, 0.0)[src != dst].sum()
    return x.new_zeros(x.size(0)).index_add(0, dst, weight * x[:, 1][src]) * rest


def test_loops_in_front() -> None:
    case = fixed_case(parts=4)
    check_equal(model_of(_with_loops), case.tensors, case.assignment, case.parts)


def _unknown(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """The graph's own self loops are still there: nobody knows how many rows the mask keeps."""
    own = torch.arange(x.size(0))
    src, dst = torch.cat([edge_index[0], own]), torch.cat([edge_index[1], own])
    return x[:, 0][dst][src == dst]


def _not_numbers(self, x: Tensor) -> Tensor:
    """NaN is not equal to itself, so a comparison of values says nothing about whole segments."""
    values = torch.cat([x[:, 0], x[:, 1]])
    return values[values.eq(values)]


@pytest.mark.parametrize("forward", [_unknown, _not_numbers])
def test_what_is_not_known_for_a_segment(forward: Callable[..., Tensor]) -> None:
    program = program_of(model_of(forward), 1)
    placed = program.output_node().args[0][0].meta["placement"]  # type: ignore[index, union-attr]
    assert isinstance(placed, Placed)
    assert isinstance(placed.dims[0], Kept)
    assert isinstance(placed.dims[0].rows, Joined)
