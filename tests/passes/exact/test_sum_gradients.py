"""sum_gradients: parameters are marked where they enter, replicated outputs where they leave."""

from __future__ import annotations

from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.insert_all_reduce import InsertAllReduce
from graphshard.passes.exact.sum_gradients import SumGradients


def _outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = self.lin(x)
    return h, h.sum(0) * self.weight, (x > 0).sum()


def test_rows_and_integers_are_left_alone() -> None:
    check_pass(
        model_of(_outputs),
        [InsertAllReduce()],
        SumGradients(),
        "replicated_input replicated_input replicated_input linear sum all_reduce mul gt sum all_reduce "
        "replicated_output",
        edits=4,
    )


def _passed_on(self, x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(), self.weight


def test_a_parameter_that_is_returned_as_it_is_gets_both_marks() -> None:
    check_pass(
        model_of(_passed_on),
        [InsertAllReduce()],
        SumGradients(),
        "replicated_input sum all_reduce replicated_output replicated_output",
        edits=3,
    )
