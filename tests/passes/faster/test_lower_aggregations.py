"""Gathers, messages and scatters as sparse matrix products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.equality import check_equal
from support.faster_models import attention, by_source, compared, learned_edges, mean, weighted
from support.programs import before_pass, check_faster, model_of, step_ops
from support.strategies import fixed_case
from torch import Tensor

PASS = "lower_aggregations"


def test_a_weighted_sum() -> None:
    check_faster(weighted, PASS, "linear tanh halo_sync weighted_sum linear", 1)


def test_a_mean_and_its_count() -> None:
    check_faster(mean, PASS, "linear tanh halo_sync weighted_sum div linear", 2)


def test_attention() -> None:
    after = "linear tanh view halo_sync sum halo_sync gather gather add edge_softmax weighted_sum"
    check_faster(attention, PASS, after, 4)


def late_ends(self: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    """Constants of the graph, gathered first; the numbers that they are summed by are selected behind it."""
    messages = x[edge_index[0]].tanh() + x[edge_index[1]]
    return self.lin(torch.zeros_like(x).index_add(0, edge_index[1], messages))


def test_a_gather_that_stands_before_the_other_end_of_its_edges() -> None:
    """Found by the coverage of the zoo: layers that gather first and aggregate later."""
    program, step = before_pass(model_of(late_ends), PASS)
    assert step.run(program) > 0
    program.graph.lint()
    case = fixed_case()
    tensors = {name: case.tensors[name] for name in ("x", "edge_index")}
    check_equal(model_of(late_ends), tensors, case.assignment, case.parts)


def test_dots_extremes_and_messages_that_are_no_gathers() -> None:
    after = """linear tanh halo_sync gather unsqueeze unsqueeze dots squeeze tanh unsqueeze mul edge_extreme
        add edge_extreme add exp segment_sum div add"""
    check_faster(compared, PASS, after, 5)


def test_a_sum_by_source() -> None:
    check_faster(by_source, PASS, "linear tanh weighted_sum halo_reduce", 1)


def test_edges_that_are_chosen_in_every_step_are_left_alone() -> None:
    program, step = before_pass(model_of(learned_edges), PASS)
    before = step_ops(program)
    assert step.run(program) == 0
    assert step_ops(program) == before


def almost_a_softmax(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Normalised by the sums of other nodes: no softmax."""
    src, dst = edge_index
    s = self.lin(x)[:, 0][dst]
    top = s.new_zeros(x.size(0)).scatter_reduce(0, dst, s.detach(), "amax", include_self=False)
    p = (s - top[dst]).exp()
    return p / (p.new_zeros(x.size(0)).index_add(0, dst, p) + 1e-16)[src]


def two_dtypes(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    weight = torch.ones(src.size(0), dtype=torch.float32)
    return torch.zeros_like(x).index_add(0, dst, x[src] * weight[:, None])


def from_a_base(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    h = self.lin(x).tanh()
    return h.index_add(0, dst, h[src], alpha=1)


@pytest.mark.parametrize(
    ("forward", "called"),
    [
        (almost_a_softmax, {"segment_sum": 1, "edge_softmax": 0}),
        (two_dtypes, {"weighted_sum": 1}),
        (from_a_base, {"weighted_sum": 1, "add": 1}),
    ],
)
def test_near_misses(forward, called: dict[str, int]) -> None:
    program, step = before_pass(model_of(forward), PASS)
    step.run(program)
    found = [getattr(n.target, "__name__", str(n.target)) for n in program.graph.nodes]
    for name, count in called.items():
        assert sum(name == f.split(".")[0] for f in found) == count


def steeper(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """No softmax: twice the maximum is subtracted."""
    scores, dst = self.lin(x)[edge_index[0]][:, 0], edge_index[1]
    top = scores.new_zeros(x.size(0)).scatter_reduce(0, dst, scores.detach(), "amax", include_self=False)
    power = torch.sub(scores, top[dst], alpha=2).exp()
    return power / (scores.new_zeros(x.size(0)).index_add(0, dst, power)[dst] + 1e-16)


def test_what_only_looks_like_a_softmax_is_none() -> None:
    program, step = before_pass(model_of(steeper), PASS)
    step.run(program)
    assert "edge_softmax" not in step_ops(program)
