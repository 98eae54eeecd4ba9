"""Random stacks of layers, norms, activations, dropout and residuals."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.equality import Compilations, check_equal
from support.models import ACTIVATIONS, CONVS, NORMS, Stack, make
from support.strategies import Case, cases, examples, fixed_case
from torch import nn

steps = st.tuples(
    st.sampled_from(sorted(CONVS)), st.sampled_from(sorted(NORMS)), st.sampled_from(sorted(ACTIVATIONS))
)


def stack(names: list[tuple[str, str, str]], residual: bool, p: float = 0.0) -> nn.Module:
    return make(lambda: Stack([(CONVS[c](), NORMS[n](), ACTIVATIONS[a]()) for c, n, a in names], residual, p))


@examples(6)
@given(
    names=st.lists(steps, min_size=1, max_size=3),
    residual=st.booleans(),
    train=st.booleans(),
    first=cases(min_nodes=2),
    second=cases(min_nodes=2),
)
def test_a_stack(
    names: list[tuple[str, str, str]], residual: bool, train: bool, first: Case, second: Case
) -> None:
    model, programs = stack(names, residual).train(train), Compilations()
    for case in (first, second):
        check_equal(model, case.tensors, case.assignment, case.parts, programs)


@examples(3)
@given(names=st.lists(steps, min_size=1, max_size=2), case=cases(min_nodes=2))
def test_dropout_is_the_same_on_one_rank_and_on_several(
    names: list[tuple[str, str, str]], case: Case
) -> None:
    check_equal(stack(names, True, p=0.4), case.tensors, case.assignment, case.parts, one_rank=True)


def test_modes_and_unused_parameters_of_a_frozen_submodule() -> None:
    model = stack([("gat", "batch", "prelu"), ("gcn", "batch", "relu")], True)
    model.norms[0].eval()  # type: ignore[index, union-attr]
    for p in model.convs[0].parameters():  # type: ignore[index, union-attr]
        p.requires_grad_(False)
    model.spare = nn.Linear(2, 2, dtype=torch.float64)
    case = fixed_case(parts=4)
    check_equal(model, case.tensors, case.assignment, case.parts, backwards=2)
