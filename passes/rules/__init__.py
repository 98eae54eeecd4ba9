"""Placement rules: one file for each family of ops, each with a literal table from op to rule.

To add a rule, write a function ``rule(call) -> Placement`` in the file of its family and name the op in that
file's ``RULES``. A rule says where the result's rows live, asks for the edits it needs, and refuses the rest.
"""

from __future__ import annotations

from typing import Any

import torch

from graphshard.passes.rules import (
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
from graphshard.passes.rules.call import Rule


def name_of(target: Any) -> str:
    """The key of a call target in the rule tables: ``aten.relu.default``, ``_operator.add``."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = getattr(target, "__module__", "") or ""
    return f"{module}.{getattr(target, '__name__', target)}"


def find_rule(target: Any) -> Rule | None:
    """The rule for a call target; None where there is none, and then the program is refused."""
    name = name_of(target)
    for family in (
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
    ):
        if name in family.RULES:
            rule: Rule = family.RULES[name]
            return rule
    return pointwise.find(target)
