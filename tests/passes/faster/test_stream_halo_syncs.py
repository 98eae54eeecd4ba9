"""Sums whose halo rows come in blocks of columns."""

from __future__ import annotations

from support.faster_models import attention, mean, shrinking, weighted
from support.programs import before_pass, check_faster, model_of

from graphshard.ops import streamed

PASS = "stream_halo_syncs"
STAY = "move_halo_syncs reassociate_aggregations"


def test_a_sum_over_rows_that_nothing_else_reads() -> None:
    check_faster(shrinking, PASS, "linear tanh streamed_sum linear", 1, without=STAY)


def test_a_mean_is_a_sum_and_a_scale_of_rows() -> None:
    program = check_faster(mean, PASS, "linear tanh streamed_sum linear", 1, without=STAY)
    (node,) = program.graph.find_nodes(op="call_function", target=streamed.streamed_sum)
    _, weight, scale, *_ = node.args
    assert weight is None
    assert scale.meta["val"].dim() == 1


def test_rows_that_others_read_and_weights_with_a_gradient_are_synced_as_before() -> None:
    def twice(self, x, edge_index):
        return shrinking(self, x, edge_index) + self.out(self.lin(x).tanh()[edge_index[0]].sum(0))

    for forward in (twice, attention, weighted):
        program, step = before_pass(model_of(forward), PASS, STAY)
        assert step.run(program) == 0
