"""``graphshard verify``: prove that a model gives the same on k ranks as on one machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
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
    script: Annotated[
        Path | None,
        typer.Option(
            help="Run this training script on one machine and on ranks, and compare step by step; "
            "what follows `--` are its arguments."
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Steps of optimisers after which a script is stopped.", min=1)
    ] = 5,
    *,
    context: typer.Context,
) -> None:
    """Compare every output, gradient, buffer and exchange on k ranks with one machine's."""
    counts = _counts(ranks)
    if script is not None:
        _verify_script(script, _script_arguments(context, target, data), counts, steps, seed, every, json)
        return
    if context.args:
        raise typer.BadParameter(f"nothing takes {context.args[0]!r}: give a model and a graph, or --script")
    options = chosen_passes(plain, with_, without)
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


def _script_arguments(context: typer.Context, *positional: str) -> list[str]:
    """All that stands behind ``--``: the first two were taken for a model and a graph."""
    given = [
        value
        for name, value in zip(("target", "data"), positional, strict=True)
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    ]
    return [*given, *context.args]


def _verify_script(
    script: Path, arguments: list[str], counts: list[int], steps: int, seed: int, every: bool, json: bool
) -> None:
    from graphshard.training.script import verify_script

    err = output.console(stderr=True)
    reports = []
    for count in counts:
        report = verify_script(
            script,
            arguments,
            count,
            steps=steps,
            seed=seed,
            say=lambda line: None if json else err.print(line, markup=False, soft_wrap=True),
        )
        reports.append(report)
        if not json:
            _show(report, every)
    passed = all(report.passed for report in reports)
    if json:
        runs = [report.as_dict() for report in reports]
        output.show_json({"script": str(script), "passed": passed, "runs": runs})
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
