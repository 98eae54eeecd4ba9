"""What a pass does to a program, as text that is its golden test and its documentation: before, and after."""

from __future__ import annotations

import re

from support.golden_text import assert_golden

from graphshard.infer.constants import ONCE
from graphshard.ir.program import Pass, Program
from graphshard.passes.pipeline import purpose
from graphshard.show.names import Names, key_of
from graphshard.show.printing import render


def check_shown(step: Pass, before: Program, after: Program, example: str) -> None:
    """Compare with ``golden/passes/PASS.EXAMPLE.txt``; both programs are placed.

    Args:
        example: what the model is called; one that has no name is not shown.
    """
    name = example.strip("_")
    if not re.fullmatch(r"\w+", name):
        return
    words = Names([before, after])
    text = [
        f"{step.name}: {purpose(step)}",
        "",
        "before",
        *_lines(before, words),
        "",
        "after",
        *_lines(after, words),
    ]
    assert_golden(f"passes/{step.name}.{name}", "\n".join(text) + "\n")


def _lines(program: Program, words: Names) -> list[str]:
    once = {key_of(node) for node in program.graph.nodes if node.meta.get(ONCE)}
    return [
        f"    {line.text(where=False, note='once for each graph' if line.key in once else '')}"
        for line in render(program, words, marks=True)
    ]
