"""What a run of the zoo says: tables for a terminal, and the same in markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graphshard.tools.zoo import GROUPS
from graphshard.tools.zoo.record import totals
from graphshard.tools.zoo.run import Outcome, Result

if TYPE_CHECKING:
    from rich.table import Table


def rows_by_group(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, dict[str, int]]]:
    """Totals of each group that ran, then of all."""
    for group in GROUPS:
        if mine := [outcome for outcome in outcomes if outcome.group == group]:
            yield group, totals(mine)
    yield "total", totals(outcomes)


def by_reason(outcomes: Sequence[Outcome], result: Result) -> list[tuple[str, list[str]]]:
    """Reasons with the names that have them, the most frequent first."""
    names: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.result is result:
            names[outcome.kind].append(outcome.name)
    return sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))


def totals_table(outcomes: Sequence[Outcome]) -> Table:
    """One line for each group."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    made.add_column("group")
    for result in Result:
        made.add_column(result.value, justify="right")
    for group, counts in rows_by_group(outcomes):
        cells = [str(counts[result.value]) for result in Result]
        if counts[Result.wrong.value]:
            cells[list(Result).index(Result.wrong)] = f"[bold red]{counts[Result.wrong.value]}[/]"
        made.add_row(group, *cells)
    return made


def reasons_table(outcomes: Sequence[Outcome], result: Result) -> Table:
    """One line for each reason."""
    from rich.markup import escape
    from rich.table import Table

    made = Table(pad_edge=False, show_lines=True)
    made.add_column("", justify="right")
    made.add_column(f"why {result.value}", overflow="fold", ratio=1)
    made.add_column("configurations", overflow="fold", ratio=1)
    for reason, names in by_reason(outcomes, result):
        made.add_row(str(len(names)), escape(reason), escape("; ".join(names)))
    return made


def wrong_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each wrong configuration."""
    for outcome in outcomes:
        if outcome.result is Result.wrong:
            yield f"WRONG {outcome.group}/{outcome.name}: {outcome.reason}"


def markdown(outcomes: Sequence[Outcome], seeds: int) -> str:
    """The page ``docs/coverage.md``."""
    lines = [
        "# Coverage",
        "",
        "Written by `graphshard coverage --write docs/coverage.md`: PyG's layers and models with their options, and",
        f"GNNs written by hand, in float64 on 3 simulated ranks and {seeds} random graphs each (one with ties, a part",
        "without nodes and a part without a halo). *Exact*: outputs, loss, gradients of parameters and inputs,",
        "buffers and every exchanged value equal one machine's to 1e-9. *Refused*: an error at compile time that",
        "names the operation and the line. *Wrong*: anything else. *Not runnable*: the module needs more than PyG's",
        "base install, on one machine too.",
        "",
        "| group | " + " | ".join(result.value for result in Result) + " |",
        "|---|" + "---:|" * len(Result),
    ]
    for group, counts in rows_by_group(outcomes):
        lines.append(f"| {group} | " + " | ".join(str(counts[result.value]) for result in Result) + " |")
    for result in (Result.wrong, Result.refused, Result.missing):
        if reasons := by_reason(outcomes, result):
            lines += ["", f"## {result.value.capitalize()}", ""]
            lines += [f"- {_code(reason)} ({len(names)}): {'; '.join(names)}" for reason, names in reasons]
    lines += ["", "## Exact", ""]
    for group in GROUPS:
        names = [o.name for o in outcomes if o.group == group and o.result is Result.exact]
        if names:
            lines.append(f"- {group} ({len(names)}): {'; '.join(names)}")
    return "\n".join(lines) + "\n"


def _code(reason: str) -> str:
    """Text that markdown leaves as it is."""
    return reason.replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")
