"""docs/where.md: each file that it names is there, not deep, and holds what to look for."""

from __future__ import annotations

import ast
import re

import pytest
from support.repository import DOCS, ROOT

STEPS = 3
"""Below a folder of the root."""
ROWS = re.findall(r"^\| (.+?) \| `(\S+)` \| `(\w+)` \|$", (DOCS / "where.md").read_text(), re.MULTILINE)


def names_in(text: str) -> set[str]:
    """What a Python file defines or writes as a string, and the words of its docstring."""
    tree = ast.parse(text)
    found = set(re.findall(r"\w+", ast.get_docstring(tree) or ""))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_every_row_of_the_page_is_read() -> None:
    lines = [line for line in (DOCS / "where.md").read_text().splitlines() if line.startswith("| ")]
    assert len(ROWS) == len([line for line in lines if not line.startswith("| question ")]) >= 10
    questions = [question for question, _, _ in ROWS]
    assert len(set(questions)) == len(questions)
    assert all(question.endswith("?") for question in questions)


@pytest.mark.parametrize(("path", "name"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_an_answer_is_there(path: str, name: str) -> None:
    assert path.count("/") <= STEPS
    assert (ROOT / path).is_file(), f"docs/where.md names {path}, which is not there"
    assert name in names_in((ROOT / path).read_text()), f"{path} has no {name}"


def test_a_name_that_is_only_called_is_not_found() -> None:
    assert names_in('"""Of a halo."""\n\n\ndef plan():\n    x = other("roll")\n') >= {
        "halo",
        "plan",
        "x",
        "roll",
    }
    assert "other" not in names_in("def plan():\n    other()\n")
