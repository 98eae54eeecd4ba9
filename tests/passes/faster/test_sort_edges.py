"""Edges numbered in the order of the rows that they are summed into."""

from __future__ import annotations

from support.faster_models import attention, by_source, edges_out, weighted
from support.programs import before_pass, check_faster, model_of, once_ops

from graphshard.ir.placement import Sorted
from graphshard.ops import aggregation

PASS = "sort_edges"


def test_ends_and_weights_are_sorted_once() -> None:
    program = check_faster(weighted, PASS, "linear tanh halo_sync weighted_sum linear", 1)
    assert once_ops(program) == ["edge_order", "sort_edges", "sort_edges", "sort_edges", "edge_structure"]


def test_scores_that_are_computed_in_the_step_need_no_sorting() -> None:
    after = "linear tanh view halo_sync sum halo_sync gather gather add edge_softmax weighted_sum"
    program = check_faster(attention, PASS, after, 1)
    assert once_ops(program) == ["edge_order", "sort_edges", "sort_edges", "edge_structure"]
    rows = {n.meta["placement"].dims[0] for n in program.graph.nodes if n.target is aggregation.edge_softmax}
    assert {type(r) for r in rows} == {Sorted}


def test_by_source_they_are_sorted_by_source() -> None:
    check_faster(by_source, PASS, "linear tanh weighted_sum halo_reduce", 1)


def test_edges_whose_values_are_returned_keep_their_order() -> None:
    program, step = before_pass(model_of(edges_out), PASS)
    assert step.run(program) == 0
    assert "edge_order" not in once_ops(program)
