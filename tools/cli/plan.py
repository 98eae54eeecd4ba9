"""``graphshard plan``: how many ranks a model and a graph want, and what each of them needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphshard.tools import output
from graphshard.tools.cli.options import (
    DropoutOption,
    HeadsOption,
    HiddenOption,
    JsonOption,
    LayersOption,
    PlainOption,
    SeedOption,
    TargetArgument,
    WithOption,
    WithoutOption,
    assignment,
    chosen_passes,
)

if TYPE_CHECKING:
    from rich.table import Table

    from graphshard.partitioning.report import PartitionReport
    from graphshard.planning.link import Link
    from graphshard.planning.plan import Plan


def plan(
    target: TargetArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="The graph, as for train; or give --report.")
    ] = None,
    *,
    reports: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Instead of DATA, what graphshard partition --json printed; may be repeated.",
        ),
    ] = None,
    features: Annotated[int | None, typer.Option(help="With --report, the width of x.", min=1)] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=SPEC", help="With --report, an argument of forward, as for diff."
        ),
    ] = None,
    parts: Annotated[
        str, typer.Option(help="Numbers of ranks: 2..64 (each twice the one before), or 2,3,8.")
    ] = "1..8",
    link: Annotated[
        str | None,
        typer.Option(
            metavar="SPEED",
            help="Of the network between machines like this one, a rank on each: 10Gbps, 1.5GB/s.",
            show_default="all ranks here; measured",
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Of that network: 50us.", show_default="as between processes here; measured"
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a rank may use: 16GiB.", show_default="this machine's"),
    ] = None,
    method: Annotated[str, typer.Option(help="How nodes are given to parts, as for partition.")] = "metis",
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
    """Say what a training step takes on several numbers of ranks: bytes, memory, seconds; which of them pay."""
    options = chosen_passes(plain, with_, without)
    import graphshard
    from graphshard.planning.words import numbers_of, size_of
    from graphshard.tools.data.sources import load_data
    from graphshard.tools.targets.load import load_target

    if latency is not None and link is None:
        raise typer.BadParameter("say how fast the network is too: --link", param_hint="--latency")
    between = None if link is None else _link(link, latency)
    limit = None if memory is None else size_of(memory)
    if (data is None) == (not reports):
        raise typer.BadParameter("give the graph, as DATA, or --report", param_hint="DATA")
    graph = None if data is None else load_data(data)
    model = load_target(target, graph, hidden=hidden, layers=layers, dropout=dropout, heads=heads, seed=seed)
    source = data or ", ".join(map(str, reports or ()))
    errors = output.console(stderr=True)
    found = graphshard.plan(
        model,
        graph if graph is not None else list(map(_report, reports or ())),
        numbers_of(parts),
        features=features,
        inputs=dict(map(assignment, inputs or ())),
        link=between,
        memory=limit,
        method=method,
        options=options,
        seed=seed,
        report=lambda line: errors.print(f"plan: {line}", markup=False),
    )
    if json:
        output.show_json({"target": target, "data": source, **found.as_dict()})
        return
    where = "ranks share this machine" if found.here else "a machine like this one for each rank"
    output.show(f"{target} on {source}: a step of training; {where}", table(found), *found.verdict())


def _report(file: Path) -> PartitionReport:
    """What ``graphshard partition --json`` printed."""
    import json

    from graphshard.errors import DataError, PartitionError
    from graphshard.partitioning.report import PartitionReport

    try:
        return PartitionReport.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, PartitionError) as error:
        raise DataError(f"{file}: {error}") from None


def _link(speed: str, latency: str | None) -> Link:
    from graphshard.planning.link import Link, measure_link
    from graphshard.planning.words import duration_of, speed_of

    seconds = measure_link(2).latency if latency is None else duration_of(latency)
    return Link(speed_of(speed), seconds)


def table(found: Plan) -> Table:
    """A line for each number of ranks."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    titles = (
        "ranks",
        "halo rows",
        "sent a step",
        "memory a rank",
        "fits",
        "s a step",
        "of that sending",
        "tried",
    )
    for title in titles:
        made.add_column(title, justify="right")
    for run in found.runs:
        made.add_row(
            str(run.parts),
            f"{run.halo_rows:,}",
            output.bytes_text(run.sent),
            f"{run.peak / (1 << 30):.2f} GiB",
            "yes" if run.fits else "no",
            f"{run.seconds:.3g}",
            f"{1 - run.computing / run.seconds:.0%}",
            f"{run.tried:.0%}",
        )
    return made
