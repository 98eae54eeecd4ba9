"""Every op family over rows of nodes and edges: any graph, any partition, the same numbers as on one machine.

Outputs, gradients of the inputs and of the parameters are compared (see ``equality.check_equal``).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from support.equality import Compilations, check_equal
from support.models import make
from support.op_programs import FAMILIES, Bundle
from support.strategies import Case, cases, examples, fixed_case
from torch import nn

SIZE = 20
BUNDLES = {
    f"{family}: {', '.join(names[i : i + SIZE])}": [expressions[n] for n in names[i : i + SIZE]]
    for family, expressions in FAMILIES.items()
    for names in [list(expressions)]
    for i in range(0, len(names), SIZE)
}
_KEPT: dict[str, tuple[nn.Module, Compilations]] = {}


def _compiled(name: str) -> tuple[nn.Module, Compilations]:
    if name not in _KEPT:
        _KEPT[name] = make(lambda: Bundle(BUNDLES[name])), Compilations()
    return _KEPT[name]


@pytest.mark.parametrize("name", BUNDLES)
@examples(2)
@given(case=cases(min_nodes=2, min_edges=2))
def test_ops_over_rows(name: str, case: Case) -> None:
    model, programs = _compiled(name)
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.parametrize("name", BUNDLES)
def test_ops_over_rows_with_ties_and_an_empty_part(name: str) -> None:
    model, programs = _compiled(name)
    case = fixed_case(parts=4, ties=True)
    check_equal(model, case.tensors, case.assignment, case.parts, programs)
