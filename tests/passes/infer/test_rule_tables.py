"""The tables of rules: every rule can be reached, and an op has one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from graphshard.passes.infer.rules import FAMILIES, RULES, one_table


def test_every_rule_of_every_family_is_found() -> None:
    assert len(RULES) == sum(len(family.RULES) for family in FAMILIES)
    for family in FAMILIES:
        assert all(RULES[op] is rule for op, rule in family.RULES.items())


def test_two_rules_for_one_op_are_an_error() -> None:
    first = SimpleNamespace(__name__="first", RULES={"aten.relu.default": max})
    second = SimpleNamespace(__name__="second", RULES={"aten.neg.default": max, "aten.relu.default": min})
    with pytest.raises(ValueError, match=r"second has a rule for aten\.relu\.default"):
        one_table([first, second])
