"""Sums that begin while their halo rows travel."""

from __future__ import annotations

from support.faster_models import attention, weighted
from support.programs import before_pass, check_faster, model_of, once_ops

PASS = "overlap_halo_syncs"


def test_a_sum_over_rows_that_nothing_else_reads() -> None:
    after = "linear tanh overlapped_sum linear"
    program = check_faster(weighted, PASS, after, 1, without="move_halo_syncs reassociate_aggregations")
    assert once_ops(program)[-1] == "split_structure"


def test_rows_that_others_read_too_are_synced_as_before() -> None:
    def twice(self, x, edge_index, edge_weight):
        return weighted(self, x, edge_index, edge_weight) + self.out(self.lin(x).tanh()[edge_index[0]].sum(0))

    program, step = before_pass(model_of(twice), PASS, "reassociate_aggregations")
    assert step.run(program) == 0
    program, step = before_pass(model_of(attention), PASS)
    assert step.run(program) == 0
