"""Losses inside forward and outside of it: divisors are counts of the whole graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from support.equality import Compilations, check_equal
from support.models import Written, make
from support.strategies import Case, cases, examples, fixed_case
from torch import Tensor, nn

from graphshard.errors import CaptureError

few = examples(4)

WEIGHTS = torch.tensor([0.2, 1.0, 2.5], dtype=torch.float64)
Term = Callable[[Tensor, Tensor, Tensor, str], Tensor]


def _ignoring(y: Tensor) -> Tensor:
    return torch.where(y == 0, -100, y)


TERMS: dict[str, Term] = {
    "cross entropy": lambda s, y, t, r: F.cross_entropy(s, y, reduction=r),
    "class weights": lambda s, y, t, r: F.cross_entropy(s, y, weight=WEIGHTS, reduction=r),
    "ignored targets": lambda s, y, t, r: F.cross_entropy(s, _ignoring(y), reduction=r),
    "ignored index, weights": lambda s, y, t, r: F.cross_entropy(
        s, y, weight=WEIGHTS, ignore_index=1, reduction=r
    ),
    "label smoothing": lambda s, y, t, r: F.cross_entropy(
        s, _ignoring(y), weight=WEIGHTS, label_smoothing=0.2, reduction=r
    ),
    "class probabilities": lambda s, y, t, r: F.cross_entropy(s, t, weight=WEIGHTS, reduction=r),
    "nll": lambda s, y, t, r: F.nll_loss(F.log_softmax(s, 1), _ignoring(y), weight=WEIGHTS, reduction=r),
    "bce": lambda s, y, t, r: F.binary_cross_entropy(torch.sigmoid(s), t, weight=WEIGHTS, reduction=r),
    "bce with logits": lambda s, y, t, r: F.binary_cross_entropy_with_logits(
        s, t, pos_weight=WEIGHTS, reduction=r
    ),
    "mse": lambda s, y, t, r: F.mse_loss(s, t, reduction=r),
    "l1": lambda s, y, t, r: F.l1_loss(s, t, reduction=r),
    "huber": lambda s, y, t, r: F.huber_loss(s, t, reduction=r, delta=0.3),
    "smooth l1": lambda s, y, t, r: F.smooth_l1_loss(s, t, reduction=r),
}
"""``term(scores, classes, targets, reduction)``."""


class Scores(Written):
    """Scores of nodes that have aggregated their neighbours."""

    def scores(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x)
        return self.out(torch.tanh(h.index_add(0, edge_index[1], h[edge_index[0]])))


class Inside(Scores):
    def __init__(self, term: Term, reduction: str, masked: bool) -> None:
        super().__init__()
        self.term, self.reduction, self.masked = term, reduction, masked

    def forward(self, x: Tensor, edge_index: Tensor, y: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        scores = self.scores(x, edge_index)
        if self.masked:
            scores, y, target = scores[mask], y[mask], target[mask]
        loss = self.term(scores, y, target, self.reduction)
        return loss.sum() if self.reduction == "none" else loss


class Outside(Scores):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.scores(x, edge_index)


_KEPT: dict[Any, tuple[nn.Module, Compilations]] = {}


def _kept(key: Any, factory: Callable[[], nn.Module]) -> tuple[nn.Module, Compilations]:
    if key not in _KEPT:
        _KEPT[key] = make(factory), Compilations()
    return _KEPT[key]


@pytest.mark.parametrize(
    ("name", "masked"),
    [(n, m) for n in TERMS for m in (False, True) if (n, m) != ("class probabilities", True)],
)
@few
@given(case=cases())
def test_a_mean_loss_inside_forward(name: str, masked: bool, case: Case) -> None:
    model, programs = _kept((name, masked), lambda: Inside(TERMS[name], "mean", masked))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


def test_masked_class_probabilities_are_refused() -> None:
    """torch.export compares the row counts of scores and targets, which are numbers of the data."""
    case = fixed_case()
    model = make(lambda: Inside(TERMS["class probabilities"], "mean", True))
    with pytest.raises(CaptureError, match=r"test_losses\.py:\d+"):
        check_equal(model, case.tensors, case.assignment, case.parts)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", ["label smoothing", "nll", "bce with logits", "mse"])
def test_a_summed_loss_inside_forward(name: str, reduction: str) -> None:
    case = fixed_case(parts=4)
    model = make(lambda: Inside(TERMS[name], reduction, True))
    check_equal(model, case.tensors, case.assignment, case.parts)


@pytest.mark.parametrize("name", ["cross entropy", "bce with logits", "mse", "l1", "huber"])
@few
@given(case=cases())
def test_a_loss_outside_of_forward(name: str, case: Case) -> None:
    model, programs = _kept("outside", Outside)

    def loss(out: Tensor, graph: Any, mean: Callable[..., Tensor], _sum: Callable[..., Tensor]) -> Tensor:
        return mean(TERMS[name](out[graph.mask], graph.y[graph.mask], graph.target[graph.mask], "none"))

    check_equal(model, case.tensors, case.assignment, case.parts, programs, loss=loss)


def test_a_weighted_cross_entropy_outside_divides_by_the_weights_of_all_ranks() -> None:
    case = fixed_case(parts=3)
    model, programs = _kept("outside", Outside)

    def loss(out: Tensor, graph: Any, _mean: Callable[..., Tensor], total: Callable[..., Tensor]) -> Tensor:
        terms = F.cross_entropy(out, graph.y, weight=WEIGHTS, reduction="none")
        return total(terms) / total(WEIGHTS[graph.y])

    check_equal(model, case.tensors, case.assignment, case.parts, programs, loss=loss)


class EdgeLoss(Scores):
    """A loss over edges: every edge is scored by its two ends."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_y: Tensor) -> Tensor:
        s = self.scores(x, edge_index)
        return F.cross_entropy(s[edge_index[0]] * s[edge_index[1]], edge_y)


@few
@given(case=cases(min_edges=1))
def test_a_loss_over_edges(case: Case) -> None:
    model, programs = _kept("edges", EdgeLoss)
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


class Regularised(Scores):
    """The loss and a term of the parameters, both inside forward."""

    def forward(self, x: Tensor, edge_index: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(x, edge_index)
        decay = sum((p * p).sum() for p in self.parameters())
        return F.cross_entropy(scores, y) + 0.1 * decay, scores


def test_a_regulariser_inside_forward() -> None:
    case = fixed_case(parts=4)
    check_equal(make(Regularised), case.tensors, case.assignment, case.parts)


@pytest.mark.parametrize("backwards", [1, 2])
def test_no_class_is_counted_twice_in_two_backwards(backwards: int) -> None:
    case = fixed_case(parts=3)
    model, programs = _kept("regularised", Regularised)
    check_equal(model, case.tensors, case.assignment, case.parts, programs, backwards=backwards)


def test_a_mask_that_keeps_nothing_gives_nan_as_on_one_machine() -> None:
    case = fixed_case(parts=3)
    case.tensors["mask"] = torch.zeros_like(case.tensors["mask"])
    model, programs = _kept(("cross entropy", True), lambda: Inside(TERMS["cross entropy"], "mean", True))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)
