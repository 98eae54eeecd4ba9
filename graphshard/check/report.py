"""What a check found, for people (a table), for programs (JSON) and for CI (passed or not)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One compared value.

    Attributes:
        mode: "train" or "eval", with " without dropout" where the comparison is with dropouts taken out.
        kind: what it is: "output", "gradient", "input gradient", "buffer", "halo sync", "overlapped sum",
            "streamed sum", "rooted sum", "halo reduce" or "all-reduce".
        name: which one.
        difference: the largest absolute difference on any rank.
        relative: the same, relative to ``scale``.
        scale: the reference's largest magnitude, or 1e-4 of the largest of its kind if that is more: a
            gradient that is zero on paper is rounding noise on both sides.
        tolerance: how large ``relative`` may be.
        rows: how many rows were compared over all ranks.
        problem: what is wrong beyond a difference of numbers, if anything.
    """

    mode: str
    kind: str
    name: str
    difference: float
    relative: float
    scale: float
    tolerance: float
    rows: int
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """NaN never passes: it compares false."""
        return self.relative <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The result of :func:`graphshard.verify`.

    Attributes:
        num_parts: how many ranks ran.
        dtype: the floating dtype of the run.
        transport: "threads" (simulated ranks) or "processes" (gloo).
        rows: every compared value.
        inexact: passes that were asked for although they change results: the report has not passed.
    """

    num_parts: int
    dtype: str
    transport: str
    rows: Sequence[Row]
    inexact: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether every value is within its tolerance; a report without rows, or of an inexact program, has not."""
        return bool(self.rows) and not self.inexact and all(row.passed for row in self.rows)

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if not row.passed]

    @property
    def largest(self) -> float:
        """The largest relative difference of all rows."""
        return max((row.relative for row in self.rows), default=math.nan)

    def as_dict(self) -> dict[str, Any]:
        """For ``json.dumps``; infinities as strings."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        for row in rows:
            for key, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[key] = str(value)
        largest = self.largest if math.isfinite(self.largest) else str(self.largest)
        return {
            "passed": self.passed,
            "num_parts": self.num_parts,
            "dtype": self.dtype,
            "transport": self.transport,
            "largest_relative_difference": largest,
            "inexact": list(self.inexact),
            "rows": rows,
        }

    def summary(self) -> str:
        """One line."""
        verdict = "PASS" if self.passed else f"FAIL ({len(self.failures)} of {len(self.rows)})"
        if self.inexact:
            verdict = f"INEXACT by choice ({', '.join(self.inexact)}; {len(self.failures)} values differ)"
        text = (
            f"{verdict}: {len(self.rows)} values on {self.num_parts} ranks ({self.transport}, {self.dtype}), "
            f"largest relative difference {self.largest:.1e}"
        )
        first = next((row for row in self.failures if row.problem), None)
        return text if first is None else f"{text}; {first.kind} {first.name} {first.problem}"

    def table(self, *, everything: bool = True) -> Table:
        """A rich table, one line a value; only the failures with ``everything=False``."""
        table = Table(box=None, pad_edge=False)
        for title in ("mode", "what", "name"):
            table.add_column(title, overflow="fold")
        for title in ("rows", "difference", "relative", "allowed", ""):
            table.add_column(title, justify="right")
        for row in self.rows if everything else self.failures:
            mark = "[green]ok[/]" if row.passed else f"[red]FAIL[/] {row.problem or ''}"
            table.add_row(
                row.mode,
                row.kind,
                row.name,
                str(row.rows),
                f"{row.difference:.1e}",
                f"{row.relative:.1e}",
                f"{row.tolerance:.0e}",
                mark,
            )
        return table
