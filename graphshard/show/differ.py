"""What passes did to a program, as a diff::

    conv1 (GATConv)
          ... 3 unchanged
      +   view_halo = halo_sync(view)                      f32[n+h, 2, 4]   # Halo; h x 32 B forward and back
          ... 21 unchanged
      ~   index_select_4 = index_select(view_halo, 0, select_3)             # Edges; was view

Nodes correspond by their identity, which the copies of a program share (``graphshard/ir/identity.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from torch import fx

from graphshard.ir.program import Program, Stage
from graphshard.ops.exchange import replicated_output
from graphshard.show.names import Key, Names, key_of, marked_value, plural
from graphshard.show.printing import Line, header, render
from graphshard.show.traffic import Traffic
from graphshard.show.why import why

MARKERS = {"unchanged": " ", "added": "+", "removed": "-", "changed": "~"}

LEGEND = "a rank has n owned nodes, h halo nodes and e edges; the graph has N nodes and E edges"


@dataclass(frozen=True)
class Entry:
    """One line of a diff.

    Attributes:
        kind: "unchanged", "added", "removed" or "changed" (only its arguments did).
        line: the line; of a changed one, as it is after.
        was: the arguments that were replaced, as they were before.
        note: what an added communication sends.
    """

    kind: str
    line: Line
    was: tuple[str, ...] = ()
    note: str = ""

    def text(self, *, where: bool = True) -> str:
        """``+   view_halo = halo_sync(view)  ...``."""
        note = f"was {', '.join(self.was)}" if self.was else self.note
        return f"{MARKERS[self.kind]}   {self.line.text(where=where, note=note)}"


@dataclass(frozen=True)
class StageDiff:
    """What one pass, or several, did.

    Attributes:
        name: of the pass; empty for the whole compilation.
        edits: how many edits it says that it made.
        entries: every line of both programs, merged.
        marks: what was said about gradients, folded.
    """

    name: str
    edits: int
    entries: tuple[Entry, ...]
    marks: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Entry]:
        """The entries of one kind."""
        return [entry for entry in self.entries if entry.kind == kind]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.marks and all(entry.kind == "unchanged" for entry in self.entries)

    def lines(self) -> list[tuple[str, str]]:
        """``(kind, text)``; kinds are those of entries, and "title", "module" and "fold"."""
        lines: list[tuple[str, str]] = []
        if self.name:
            lines.append(("title", f"== {self.name}: {plural(self.edits, 'edit')}"))
        if not self.empty:
            lines += _folded(self.entries)
        return lines + [("added", f"+ {mark}") for mark in self.marks]


@dataclass(frozen=True)
class Diff:
    """What distributing a model did to it.

    Attributes:
        inputs: forward's inputs, in words.
        stages: one for the whole compilation, or one for each pass.
        traffic: what the final program sends.
    """

    inputs: str
    stages: tuple[StageDiff, ...]
    traffic: Traffic
    _compilation: tuple[Sequence[Stage], Names] = field(repr=False, compare=False)

    def why(self, name: str) -> str:
        """Why the value that the diff calls ``name`` is there: the pass that made it, what for, and the user's line.

        Raises:
            DataError: there is no such value.
        """
        return why(*self._compilation, name)

    def lines(self) -> list[tuple[str, str]]:
        """``(kind, text)`` of the whole text, for whoever colours it; see :meth:`StageDiff.lines`."""
        lines = [("unchanged", self.inputs), ("unchanged", f"sizes:  {LEGEND}"), ("unchanged", "")]
        for stage in self.stages:
            lines += stage.lines()
        return [*lines, ("unchanged", ""), *(("summary", text) for text in self.traffic.lines())]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: every line that is not unchanged, and the summary."""
        return {
            "inputs": self.inputs,
            "stages": [
                {
                    "name": stage.name,
                    "edits": stage.edits,
                    "lines": [_entry_dict(e) for e in stage.entries if e.kind != "unchanged"],
                    "unchanged": len(stage.of_kind("unchanged")),
                    "marks": list(stage.marks),
                }
                for stage in self.stages
            ],
            "summary": self.traffic.as_dict(),
        }

    def __str__(self) -> str:
        return "\n".join(text.rstrip() for _, text in self.lines()) + "\n"


def diff_pipeline(stages: Sequence[Stage], names: Names, traffic: Traffic, *, between: bool) -> Diff:
    """Compare the last stage with the first or, with ``between``, every stage with the one before it."""
    programs = [stage.program for stage in stages]
    notes = traffic.notes()
    if between:
        diffs = [_compare(a.program, b.program, names, notes, b.name, b.edits) for a, b in pairwise(stages)]
    else:
        diffs = [_compare(programs[0], programs[-1], names, notes)]
    return Diff(header(programs[-1], names), tuple(diffs), traffic, (stages, names))


def _compare(
    before: Program, after: Program, names: Names, notes: Mapping[Key, str], name: str = "", edits: int = 0
) -> StageDiff:
    old, new = render(before, names), render(after, names)
    matcher = SequenceMatcher(None, [line.key for line in old], [line.key for line in new], autojunk=False)
    entries: list[Entry] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            entries += [_matched(x, y) for x, y in zip(old[a:b], new[c:d], strict=True)]
        else:
            entries += [Entry("removed", line) for line in old[a:b]]
            entries += [Entry("added", line, note=notes.get(line.key, "")) for line in new[c:d]]
    return StageDiff(name, edits, tuple(entries), _marks(before, after))


def _matched(before: Line, after: Line) -> Entry:
    if before.args == after.args:
        return Entry("unchanged", after)
    if len(before.args) != len(after.args):
        return Entry("changed", after, before.args)
    return Entry("changed", after, tuple(a for a, b in zip(before.args, after.args, strict=True) if a != b))


def _marks(before: Program, after: Program) -> tuple[str, ...]:
    """What the marks on inputs and outputs say, one line for each kind."""
    known = {key_of(value) for node in before.graph.nodes if (value := marked_value(node)) is not None}
    counts: dict[str, int] = {}
    for node in after.graph.nodes:
        value = marked_value(node)
        if value is not None and key_of(value) not in known:
            kind = _marked(after, node, value)
            counts[kind] = counts.get(kind, 0) + 1
    says = {"output": "gradient divided by the number of ranks"}
    return tuple(
        f"{plural(count, kind)}: {says.get(kind, 'gradients summed over the ranks')}"
        for kind, count in counts.items()
    )


def _marked(program: Program, mark: fx.Node, value: fx.Node) -> str:
    if mark.target is replicated_output:
        return "output"
    return "parameter" if program.kind_of(value) == "parameter" else "input"


def _folded(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """The changes, each with the line around it in its module; everything else as counts."""
    kept = set[int]()
    for i, entry in enumerate(entries):
        if entry.kind != "unchanged":
            near = range(max(i - 1, 0), min(i + 2, len(entries)))
            kept.update(j for j in near if entries[j].line.module == entry.line.module)
    lines: list[tuple[str, str]] = []
    hidden, module, where = 0, "", ""
    for i, entry in enumerate(entries):
        if i not in kept:
            hidden += 1
            continue
        lines += _fold_line(hidden)
        hidden, line = 0, entry.line
        if line.module and line.module != module:
            lines.append(("module", f"  {line.module}"))
        lines.append((entry.kind, entry.text(where=line.where != where)))
        module, where = line.module, line.where
    return lines + _fold_line(hidden)


def _fold_line(hidden: int) -> list[tuple[str, str]]:
    return [("fold", f"    ... {hidden} unchanged")] if hidden else []


def _entry_dict(entry: Entry) -> dict[str, Any]:
    line = {name: value for name, value in asdict(entry.line).items() if name != "key"}
    return {"kind": entry.kind, **line, "was": list(entry.was), "note": entry.note}
