"""expand_reductions: mean, var and std over rows by their definitions; over features they stay."""

from __future__ import annotations

from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.expand_reductions import ExpandReductions

MEAN = "sum sym_size div"


def _reduced(self, x: Tensor) -> Tensor:
    return x.mean(0) + x.std(0, unbiased=False) + x.mean(1).sum()


def test_over_rows_and_over_features() -> None:
    check_pass(
        model_of(_reduced),
        [],
        ExpandReductions(),
        f"{MEAN} {MEAN} sub mul {MEAN} eq masked_fill sqrt masked_fill add mean sum add",
        edits=2,
    )


def _variance(self, x: Tensor) -> Tensor:
    return x.var(0)


def test_a_correction_is_taken_from_the_count() -> None:
    check_pass(
        model_of(_variance),
        [],
        ExpandReductions(),
        f"{MEAN} sub mul sum sym_size sub sym_max div",
        edits=1,
    )


def _softmax(self, x: Tensor) -> Tensor:
    return x.softmax(0) + x.log_softmax(0) + x.softmax(1)


def test_a_softmax_along_the_rows_takes_the_maximum_and_the_sum_of_all() -> None:
    check_pass(
        model_of(_softmax),
        [],
        ExpandReductions(),
        "detach extreme sub exp sum div detach extreme sub exp sum log sub add softmax add",
        edits=2,
    )
