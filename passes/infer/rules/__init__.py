"""Placement rules: one file for each family of ops, each with a literal table from op to rule.

To add a rule, write a function ``rule(call) -> Placement`` in the file of its family and name the op in that
file's ``RULES``; users add theirs with ``graphshard.register_rule``. A rule says where the result's rows live,
asks for the edits it needs, and refuses the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphshard.passes.infer.rules import (
    aggregate,
    communication,
    create,
    features,
    gather,
    matmul,
    pieces,
    pointwise,
    random,
    reduce,
    scatter,
    shape,
    training,
    write,
)
from graphshard.passes.infer.rules.call import Rule
from graphshard.passes.infer.rules.registry import USER_RULES, name_of

FAMILIES = (
    pointwise,
    shape,
    pieces,
    create,
    gather,
    write,
    scatter,
    reduce,
    matmul,
    features,
    training,
    random,
    communication,
    aggregate,
)


def one_table(families: Iterable[Any]) -> dict[str, Rule]:
    """Op -> rule, of all families.

    Raises:
        ValueError: two families have a rule for one op.
    """
    rules: dict[str, Rule] = {}
    for family in families:
        if twice := rules.keys() & family.RULES.keys():
            raise ValueError(
                f"{family.__name__} has a rule for {min(twice)}, which another family has one for"
            )
        rules |= family.RULES
    return rules


RULES = one_table(FAMILIES)


def find_rule(target: Any) -> Rule | None:
    """The rule for a call target, those of users first; None where there is none: the program is refused."""
    name = name_of(target)
    if name in USER_RULES:
        return USER_RULES[name]
    return RULES.get(name) or pointwise.find(target)


__all__ = ["FAMILIES", "RULES", "find_rule", "name_of", "one_table"]
