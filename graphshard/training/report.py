"""What a comparison of two training runs found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from graphshard.check.report import Report, Row


@dataclass(frozen=True)
class TrainingReport(Report):
    """The result of :func:`graphshard.verify_training` and of ``graphshard verify --script``.

    Attributes:
        steps: how many steps were compared.
        reference: what the ranks were compared with: "plain PyTorch", or "the program on one rank" where the model
            draws random numbers.
        cause: what the first difference may come from, and what to do; None where nothing differs.
        ended: the error that ended a run of several ranks before its last step; None otherwise.
    """

    steps: int = 0
    reference: str = "plain PyTorch"
    cause: str | None = None
    ended: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every value of every step is within its tolerance, and all steps were made."""
        return super().passed and self.ended is None

    @property
    def first(self) -> Row | None:
        """The first value that differs, in the order of steps and of cause and effect: loss, gradient, weight."""
        return next(iter(self.failures), None)

    def as_dict(self) -> dict[str, Any]:
        """For ``json.dumps``; infinities as strings."""
        own = {name: getattr(self, name) for name in ("steps", "reference", "cause", "ended")}
        return super().as_dict() | own

    def summary(self) -> str:
        """A line on what was compared; where something differs, where it begins and what it may come from."""
        row = self.first
        if self.passed:
            return (
                f"PASS: {self.steps} steps on {self.num_parts} ranks ({self.transport}, {self.dtype}) as on one "
                f"machine ({self.reference}): {len(self.rows)} values, largest relative difference {self.largest:.1e}"
            )
        if row is None:
            return f"FAIL: {self.ended or 'no step was made: nothing was compared'}"
        how = row.problem or f"is off by {row.difference:.3g} ({row.relative:.1e} of its size)"
        text = f"FAIL at {row.mode}: {row.kind} {row.name} {how}"
        ended = "" if self.ended is None else f"; then the run ended: {self.ended}"
        return f"{text}: {self.cause}{ended}" if self.cause else f"{text}{ended}"

    def table(self, *, everything: bool = True) -> Table:
        """A rich table, one line a value; with ``everything=False`` the failures of the first step that has some."""
        if everything:
            return super().table()
        first = self.first
        rows: Sequence[Row] = [row for row in self.failures if first is not None and row.mode == first.mode]
        return Report(self.num_parts, self.dtype, self.transport, rows).table()
