"""The tables of rules: every rule can be reached, and an op has one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from graphshard.catalogue.table import CATALOGUE, FAMILIES, one_table

aten = torch.ops.aten


def test_every_rule_of_every_family_is_found() -> None:
    assert len(CATALOGUE) == sum(len(family.OPS) for family in FAMILIES)
    for family in FAMILIES:
        for op, record in family.OPS.items():
            assert CATALOGUE[op] is record or CATALOGUE[op].rule is record


def test_two_rules_for_one_op_are_an_error() -> None:
    first = SimpleNamespace(__name__="first", OPS={aten.relu.default: max})
    second = SimpleNamespace(__name__="second", OPS={aten.neg.default: max, aten.relu.default: min})
    with pytest.raises(ValueError, match=r"second has a rule for aten\.relu\.default"):
        one_table([first, second])
