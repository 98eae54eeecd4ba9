"""``graphshard verify``: prove that a model gives the same on k ranks as on one machine."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from graphshard.tools import output
from graphshard.tools.cli.options import (
    DataArgument,
    DropoutOption,
    Dtype,
    HeadsOption,
    HiddenOption,
    JsonOption,
    LayersOption,
    PlainOption,
    SeedOption,
    TargetArgument,
    WithOption,
    WithoutOption,
    chosen_passes,
)

if TYPE_CHECKING:
    from rich.table import Table

    from graphshard.check import Report


class Mode(StrEnum):
    """Mode of the module."""

    train = "train"
    eval = "eval"


def verify(
    target: TargetArgument = "gcn",
    data: DataArgument = "karate",
    ranks: Annotated[str, typer.Option(help="Number of ranks; several with commas.")] = "3",
    dtype: Annotated[Dtype, typer.Option(help="Floating dtype of the run.")] = Dtype.float64,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate/--processes", help="Ranks as threads of this process, or as gloo processes."
        ),
    ] = False,
    mode: Annotated[list[Mode] | None, typer.Option(help="Which modes; both by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print every compared value.")] = False,
    hidden: HiddenOption = 16,
    layers: LayersOption = 2,
    dropout: DropoutOption = 0.5,
    heads: HeadsOption = 4,
    seed: SeedOption = 0,
    plain: PlainOption = False,
    with_: WithOption = None,
    without: WithoutOption = None,
    json: JsonOption = False,
) -> None:
    """Compare every output, gradient, buffer and exchange on k ranks with one machine's."""
    counts, options = _counts(ranks), chosen_passes(plain, with_, without)
    import torch

    import graphshard
    from graphshard.tools.data.sources import load_data
    from graphshard.tools.targets.load import load_target

    graph = load_data(data)
    model = load_target(target, graph, hidden=hidden, layers=layers, dropout=dropout, heads=heads, seed=seed)
    reports = []
    for count in counts:
        report = graphshard.verify(
            model,
            graph,
            count,
            dtype=getattr(torch, dtype.value),
            modes=[m.value for m in mode or Mode],
            transport="threads" if simulate else "processes",
            options=options,
        )
        reports.append(report)
        if not json:
            _show(report, every)
    passed = all(report.passed for report in reports)
    if json:
        runs = [report.as_dict() for report in reports]
        output.show_json({"target": target, "data": data, "passed": passed, "runs": runs})
    if not passed:
        raise typer.Exit(1)


def _counts(ranks: str) -> list[int]:
    counts = [int(word) for word in ranks.split(",") if word.strip().isdigit()]
    if len(counts) != ranks.count(",") + 1 or 0 in counts:
        raise typer.BadParameter(f"{ranks!r} is no number of ranks: write 3, or 2,3,4", param_hint="--ranks")
    return counts


def _show(report: Report, every: bool) -> None:
    if every or not report.passed:
        output.show(report.table(everything=every))
    output.show(_by_kind(report), report.summary(), "")


def _by_kind(report: Report) -> Table:
    """The largest relative difference of each kind of value."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    made.add_column("what")
    for title in ("values", "largest relative difference"):
        made.add_column(title, justify="right")
    for kind in dict.fromkeys(row.kind for row in report.rows):
        rows = [row for row in report.rows if row.kind == kind]
        mark = "" if all(row.passed for row in rows) else "  [red]FAIL[/]"
        made.add_row(kind, str(len(rows)), f"{max(row.relative for row in rows):.1e}{mark}")
    return made
