"""expand_extremes: a maximum over rows without gradient, and a zero that carries it where one flows."""

from __future__ import annotations

from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.ops import local
from graphshard.passes.exact.expand_extremes import ExpandExtremes

TOP = "detach extreme"
SHARED = f"{TOP} eq _to_copy sum div zero_of mul sum add squeeze"


def _maxima(self, x: Tensor) -> Tensor:
    return x.amax(0) + x.amin(1).sum()


def test_ties_share_the_gradient_and_features_stay() -> None:
    program = check_pass(model_of(_maxima), [], ExpandExtremes(), f"{SHARED} amin sum add", edits=1)
    top = next(n for n in program.graph.nodes if n.target is local.extreme)
    assert str(top.meta["placement"]) == "Partial(max)"


def _detached(self, x: Tensor) -> Tensor:
    return x - x.amax(0).detach()


def test_without_gradient_the_maximum_is_all() -> None:
    check_pass(model_of(_detached), [], ExpandExtremes(), f"{TOP} squeeze detach sub", edits=1)


def _numbered(self, x: Tensor) -> tuple[Tensor, Tensor]:
    largest, number = x.max(0)
    return largest, number


def test_the_first_of_the_ties_is_found_by_its_id() -> None:
    check_pass(
        model_of(_numbered),
        [],
        ExpandExtremes(),
        f"{TOP} eq ne logical_or unsqueeze where extreme squeeze eq _to_copy zero_of mul sum add squeeze",
        edits=1,
    )


def _number_of_kept(self, x: Tensor, mask: Tensor) -> Tensor:
    return x[mask][:, 0].argmax()


def test_the_number_of_a_kept_row_is_how_many_ids_are_smaller() -> None:
    check_pass(
        model_of(_number_of_kept),
        [],
        ExpandExtremes(),
        f"index select {TOP} eq ne logical_or index where extreme lt sum squeeze",
        edits=1,
    )
