"""A random program as it is written: source lines, and what is known of every value so far.

A step picks values that fit, writes a line, and says what it made::

    v9 = v4[src]                       Value("v9", "edge", (4,), "float", exact=False)

``exact`` marks values that do not depend on the order of any sum: only these are compared, sorted or maximised,
since rounding would decide otherwise, on one machine as well as on several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

WIDTH = 4
"""Columns of most values: float rows are ``[rows, WIDTH]``, ``[rows]`` or ``[rows, 2, 2]``."""
GROUPS = 4
"""The numbers in ``z``."""

WHOLE = ""
"""In place of rows: the same on every rank."""


class NothingFits(Exception):
    """A step found no values that it could take."""


@dataclass(frozen=True)
class Value:
    """A value of the program: its name, over which rows it runs, the sizes behind them, its kind of numbers."""

    name: str
    rows: str
    trailing: tuple[int, ...]
    dtype: str = "float"
    exact: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Edges:
    """A set of edges: the name of its rows and of its two ends."""

    rows: str
    src: str
    dst: str


@dataclass
class Builder:
    """The program so far. ``draw`` is hypothesis's: fewer and simpler choices make a simpler program."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    values: list[Value] = field(default_factory=list)
    edges: list[Edges] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def choose(self, options: Sequence[Any]) -> Any:
        """One of these, the first being the simplest."""
        if not options:
            raise NothingFits
        return options[self.draw(st.integers(0, len(options) - 1))]

    def pick(
        self,
        rows: str | Sequence[str] | None = None,
        trailing: Sequence[tuple[int, ...]] | None = None,
        dtype: str = "float",
        exact: bool = False,
    ) -> Value:
        """A value that fits, latest first; by default a float over any rows but WHOLE."""
        wanted = (rows,) if isinstance(rows, str) else rows
        fits = [
            v
            for v in reversed(self.values)
            if v.dtype == dtype
            and (v.rows != WHOLE if wanted is None else v.rows in wanted)
            and (trailing is None or v.trailing in trailing)
            and (v.exact or not exact)
        ]
        found: Value = self.choose(fits)
        return found

    def like(self, value: Value, exact: bool = False) -> Value:
        """A value over the same rows, of the same sizes and kind."""
        return self.pick(value.rows, [value.trailing], value.dtype, exact)

    def edge_set(self) -> Edges:
        found: Edges = self.choose(list(reversed(self.edges)))
        return found

    def line(self, text: str) -> None:
        self.lines.append(text)

    def take(self, *values: Value) -> None:
        """These are read by the program: they need not be returned."""
        self.used.update(v.name for v in values)

    def emit(
        self,
        expression: str,
        takes: Sequence[Value],
        rows: str,
        trailing: tuple[int, ...],
        dtype: str = "float",
        exact: bool = False,
    ) -> Value:
        """Write ``vN = expression``; the new value."""
        self.take(*takes)
        made = Value(self.fresh(), rows, trailing, dtype, exact)
        self.line(f"{made} = {expression}")
        self.values.append(made)
        return made

    def fresh(self, letter: str = "v") -> str:
        """A name that is not taken."""
        return f"{letter}{len(self.lines)}"


Step = Callable[[Builder], object]
"""Adds a line or a few to the program, or raises NothingFits."""
