"""The tables of rules: every rule can be reached, and an op has one."""

from __future__ import annotations

import ast
import re
from types import SimpleNamespace

import pytest
import torch
from support.repository import ROOT

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


def _named_by_text(tree: ast.Module) -> list[int]:
    """The lines that tell an op by a string: its name as a constant, or a comparison of ``str(node.target)``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.lineno] if re.fullmatch(r"(aten|prims)(\.|::)\w+(\.\w+)?", node.value) else []
        if isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            found += [
                node.lineno
                for side in sides
                if ast.unparse(side).startswith("str(") and ".target" in ast.unparse(side)
            ]
    return found


def test_no_op_is_told_by_its_name() -> None:
    folders = (ROOT / "graphshard", ROOT / "passes")
    files = [p for folder in folders for p in folder.rglob("*.py") if "private" not in p.parts]
    assert len(files) > 100
    assert {str(p): lines for p in files if (lines := _named_by_text(ast.parse(p.read_text())))} == {}
    planted = 'if "eq" in str(node.target) or name == "aten.eq.Tensor": pass'
    assert len(_named_by_text(ast.parse(planted))) == 2
