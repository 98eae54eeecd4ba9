"""The committed record: which configurations are exact, so that none stops being so unnoticed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphshard.errors import DataError
from graphshard.tools.zoo.run import Outcome, Result


@dataclass(frozen=True)
class Record:
    """Totals of a run of the whole zoo, and the sorted names of what was exact."""

    totals: dict[str, int]
    exact: tuple[str, ...]

    def lost(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those of the outcomes that were exact on record and are not any more."""
        recorded = set(self.exact)
        return [o for o in outcomes if o.name in recorded and o.result is not Result.exact]

    def gone(self, names: set[str]) -> list[str]:
        """What is exact on record and no longer in a zoo of these names."""
        return [name for name in self.exact if name not in names]


def totals(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many configurations ended how."""
    counts = Counter(outcome.result for outcome in outcomes)
    return {result.value: counts[result] for result in Result}


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is no file.

    Raises:
        DataError: the file is no record.
    """
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
        return Record(dict(stored["totals"]), tuple(stored["exact"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no record of graphshard coverage ({type(error).__name__})") from error


def write_record(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the record of these outcomes."""
    exact = sorted(outcome.name for outcome in outcomes if outcome.result is Result.exact)
    path.write_text(json.dumps({"totals": totals(outcomes), "exact": exact}, indent=1) + "\n")
