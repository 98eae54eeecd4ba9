"""``graphshard coverage``: which models are exact on simulated ranks, which are refused, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphshard.tools import output
from graphshard.tools.cli.options import JsonOption

if TYPE_CHECKING:
    from graphshard.tools.zoo.record import Record
    from graphshard.tools.zoo.run import Outcome


def coverage(
    only: Annotated[
        str, typer.Option(help="Part of a name, or a pattern such as 'convs/GAT*'.", metavar="PATTERN")
    ] = "*",
    seeds: Annotated[int, typer.Option(help="Random graphs for each configuration.", min=1)] = 3,
    jobs: Annotated[
        int | None,
        typer.Option(help="Worker processes, by default one a core; with 0 all runs in this one.", min=0),
    ] = None,
    record: Annotated[
        Path, typer.Option(help="The record: what was exact before must still be.", metavar="FILE")
    ] = Path("docs/coverage.json"),
    write: Annotated[
        Path | None, typer.Option(help="Write the table as markdown, and the record.", metavar="FILE")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run PyG's layers and models on simulated ranks and compare each with one machine.

    Each program is shown too, as `graphshard diff` does in all its forms; one that cannot be is wrong.

    The exit code is 1 if any is wrong, or if one is not exact that the record says is.
    """
    from graphshard.tools.zoo import configurations, tables
    from graphshard.tools.zoo.record import read_record, totals, write_record
    from graphshard.tools.zoo.run import Result
    from graphshard.tools.zoo.workers import run_all

    tasks = list(configurations(only))
    if not tasks:
        raise typer.BadParameter(f"no configuration is called {only!r}", param_hint="--only")
    if write and only != "*":
        raise typer.BadParameter("needs the whole zoo: leave --only out", param_hint="--write")
    with _progress(len(tasks)) as advance:
        found = {}
        for outcome in run_all(tasks, range(seeds), _cores() if jobs is None else jobs):
            found[outcome.name] = outcome
            advance()
    outcomes = [found[configuration.name] for _, configuration in tasks]
    known = read_record(record)
    lost = _lost(known, outcomes, whole=only == "*") if known else []
    wrong = [outcome for outcome in outcomes if outcome.result is Result.wrong]
    if write:
        write.write_text(tables.markdown(outcomes, seeds))
        write_record(record, outcomes)
    if json:
        document: dict[str, Any] = {
            "passed": not wrong and not lost,
            "totals": totals(outcomes),
            "groups": dict(tables.rows_by_group(outcomes)),
            "lost": lost,
            "configurations": [outcome.as_dict() for outcome in outcomes],
        }
        output.show_json(document)
    else:
        _show(outcomes, lost)
    if wrong or lost:
        raise typer.Exit(1)


def _cores() -> int:
    """The cores that this process may use, 8 at most: each worker holds torch and PyG."""
    from graphshard.ranks.launch import usable_cores

    return min(8, usable_cores())


def _lost(known: Record, outcomes: Sequence[Outcome], *, whole: bool) -> list[str]:
    """What is exact on record and is not now, with the reason."""
    lost = [f"{outcome.name}: {outcome.result.value}, {outcome.reason}" for outcome in known.lost(outcomes)]
    if whole:
        lost += [f"{name}: no longer in the zoo" for name in known.gone({o.name for o in outcomes})]
    return lost


def _show(outcomes: Sequence[Outcome], lost: Sequence[str]) -> None:
    from graphshard.tools.zoo import tables
    from graphshard.tools.zoo.run import Result

    for result in (Result.refused, Result.missing):
        if tables.by_reason(outcomes, result):
            output.show(tables.reasons_table(outcomes, result), "")
    output.show(tables.totals_table(outcomes))
    for line in tables.wrong_lines(outcomes):
        output.show(line)
    for line in lost:
        output.show(f"NO LONGER EXACT {line}")


@contextmanager
def _progress(count: int) -> Iterator[Any]:
    """A bar on stderr, on a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    err = output.console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=count)
        yield lambda: bar.advance(task)
