"""docs/what-passes-do.md is made of the pipeline and of the texts that the passes' tests hold."""

from __future__ import annotations

import os

from support.repository import DOCS, GOLDEN

from graphshard.passes.pipeline import EXACT, FASTER, purpose

PAGE = DOCS / "what-passes-do.md"
HEAD = """# What passes do

Every pass, in the order in which they run, with a program before and after it as `graphshard diff --between`
prints programs: n owned nodes, h halo nodes and e edges of a rank. The texts are the tests' own: `tests/passes/`
runs each pass and compares.

The first {exact} make a program exact on any number of ranks. Then come yours ([passes](passes.md)), and then
those that make it faster, which `graphshard.Options`, `--with` and `--without` choose.

| | pass | what it does |
|---|---|---|
"""


def page() -> str:
    text = HEAD.format(exact=len(EXACT))
    for kind, passes in (("exact", EXACT), ("faster", FASTER)):
        for step in passes:
            chosen = "" if getattr(step, "chosen", True) else ", off by default"
            text += f"| {kind}{chosen} | `{step.name}` | {purpose(step)} |\n"
    for step in (*EXACT, *FASTER):
        shown = sorted(path for path in (GOLDEN / "passes").glob(f"{step.name}.*.txt"))
        if not shown:
            continue
        lines = shown[0].read_text(encoding="utf-8").splitlines()[2:]
        text += "\n".join(["", f"## {step.name}", "", "```", *lines, "```", ""])
    return text


def test_the_page_is_as_the_passes_are() -> None:
    if os.environ.get("GRAPHSHARD_UPDATE_GOLDEN") == "1":
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "GRAPHSHARD_UPDATE_GOLDEN=1 rewrites it"


def test_every_pass_is_shown() -> None:
    """All but two: infer_placement changes no program, and narrow_halo_rows is inexact and off."""
    shown = {path.name.split(".")[0] for path in (GOLDEN / "passes").glob("*.txt")}
    assert {step.name for step in (*EXACT, *FASTER)} - shown == {"infer_placement", "narrow_halo_rows"}
