"""The pages that a user reads, README.md and docs/, in the pieces that tests run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.repository import DOCS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_COMMAND = re.compile(r"`((?:\./do|graphshard|python|torchrun|[A-Z_]+=\S+ python) [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file.
        line: of its first line of text.
        language: what the fence says; nothing for drawings and for what a command prints.
        text: between the fences.
        reason: why it is not run, as an HTML comment before it says: ``<!-- not run: it takes an hour -->``.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"

    def commands(self) -> list[str]:
        """The lines of a block of shell commands, without their comments."""
        joined = self.text.replace("\\\n", " ")
        return [line for raw in joined.splitlines() if (line := shlex.join(shlex.split(raw, comments=True)))]


def blocks(language: str | None = None) -> Iterator[Block]:
    """Every block of the pages, or those in one language."""
    for page in PAGES:
        text = page.read_text()
        for found in _FENCE.finditer(text):
            if language in (None, found["language"]):
                line = text.count("\n", 0, found.start("text")) + 1
                yield Block(page, line, found["language"], found["text"], found["reason"])


def commands_in_text() -> Iterator[tuple[str, str]]:
    """``(page, command)`` of what the running text calls a command; the first of alternatives (``gcn|sage``)."""
    for page in PAGES:
        for found in _COMMAND.finditer(_FENCE.sub("", page.read_text())):
            yield page.name, re.sub(r"([^\s|]+)(\|[^\s|]+)+", r"\1", found[1])
