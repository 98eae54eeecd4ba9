"""``graphshard partition``: cut a graph into shards, say how good the cut is, write the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphshard.tools import output
from graphshard.tools.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from graphshard.partitioning.report import PartitionReport


class Method(StrEnum):
    """How nodes are given to parts."""

    metis = "metis"
    metis_volume = "metis-volume"
    multilevel = "multilevel"
    rcb = "rcb"
    mtkahypar = "mtkahypar"
    auto = "auto"


def partition(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="As for train: karate, FILE.npz, ...; or a folder with edge_index.npy and a .npy for each "
            "other tensor.",
        ),
    ],
    parts: Annotated[int, typer.Option(help="Number of parts: one for each rank.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Directory to write; without it, only report.")] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="How nodes are given to parts.", show_default="metis; of a folder multilevel"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what the method draws.", min=0)] = 0,
    positions: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For rcb: the node tensor that holds positions, if not pos."),
    ] = None,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Of a folder: what the process may hold, as 512MiB or 4GiB.")
    ] = "4GiB",
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ROLE", help="Of a folder: what a tensor's rows are, where its shape leaves a doubt."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Cut a graph into shards, one for each rank."""
    if (Path(data) / "edge_index.npy").is_file():
        if method not in (None, Method.multilevel, Method.auto) or out is None:
            raise typer.BadParameter(
                "a folder is cut by --method multilevel, and needs --out", param_hint="DATA"
            )
        report = _from_folder(Path(data), parts, out, seed, memory, role or [])
    else:
        report = _in_memory(data, parts, out, (method or Method.metis).value, seed, positions)
    if json:
        output.show_json({"data": data, "out": out and str(out), **report.as_dict()})
        return
    output.show(
        f"{report.num_nodes} nodes, {report.num_edges} edges in {report.num_parts} parts",
        f"edge cut      {report.edge_cut} ({report.edge_cut / max(report.num_edges, 1):.1%} of the edges)",
        f"halo nodes    {report.halo_nodes} (each node is held {report.replication_factor:.2f} times)",
        f"balance       nodes {report.node_balance:.2f}, edges {report.edge_balance:.2f} "
        "(largest part over mean)",
        *(
            f"  {name:<12}{sum(counts)} nodes, balance {report.balance_by_type[name]:.2f}"
            for name, counts in report.owned_by_type.items()
        ),
        f"exchange      {output.bytes_text(report.sync_bytes(1))} a sync for each float32 of a row, "
        f"{output.bytes_text(report.busiest_bytes(1))} of them by the busiest rank ({report.busiest} rows)",
        f"method        {report.method}" + (f": {report.why}" if report.why else ""),
        f"took          {report.seconds:.2f} s"
        + (f", {output.bytes_text(report.peak_memory)} above the graph" if report.peak_memory else ""),
        table(report),
        *([f"written to {out}"] if out else []),
    )


def _in_memory(
    data: str, parts: int, out: Path | None, method: str, seed: int, positions: str | None
) -> PartitionReport:
    import graphshard
    from graphshard.partitioning.partition import partition_to
    from graphshard.tools.data.sources import load_data

    graph = load_data(data)
    if out is None:
        return graphshard.partition(graph, parts, method=method, seed=seed, positions=positions).report
    return partition_to(out, graph, parts, method=method, seed=seed, positions=positions)


def _from_folder(
    folder: Path, parts: int, out: Path, seed: int, memory: str, roles: list[str]
) -> PartitionReport:
    """Say how long it will take, where that is over two seconds, and how far it is."""
    from graphshard.partitioning.from_files import EDGES, find_files, partition_files

    files = find_files(folder)
    edges, size = files[EDGES].shape[1], sum(npy.bytes for npy in files.values())
    seconds = _SECONDS_AN_EDGE * edges + _SECONDS_A_BYTE * size
    if any("=" not in one for one in roles):
        raise typer.BadParameter("write --role NAME=ROLE, as --role y=node", param_hint="--role")
    given = dict(one.split("=", 1) for one in roles)
    with _progress(seconds) as (told, say):
        if seconds > _SHORT:
            say(
                f"{edges} edges, {output.bytes_text(size)} in {len(files)} files: about {seconds:.0f} s, and up to "
                f"{output.bytes_text(edges * 24 + size)} beside {out} until it is done"
            )
        return partition_files(
            folder, parts, out, memory=as_bytes(memory), roles=given, seed=seed, progress=told
        )


_SHORT = 2.0  # seconds that nobody needs to hear of
_SECONDS_AN_EDGE, _SECONDS_A_BYTE = 4e-7, 8e-9  # measured on one core, with a local disk


def as_bytes(text: str) -> int:
    """``"512MiB"`` -> 536870912.

    Raises:
        BadParameter: it is no size.
    """
    from graphshard.errors import DataError
    from graphshard.planning.words import size_of

    try:
        return size_of(f"{text}B" if text.isdecimal() else text)  # a number alone is of bytes
    except DataError:
        raise typer.BadParameter(
            f"{text!r} is no size: write 512MiB or 4GiB", param_hint="--memory"
        ) from None


@contextmanager
def _progress(seconds: float) -> Iterator[tuple[Callable[[str, float], None], Callable[[str], None]]]:
    """What to call with a step and its share, and with a sentence: a live line on a terminal, if it takes a while."""
    out = output.console(stderr=True)

    def say(sentence: str) -> None:
        out.print(sentence, markup=False, soft_wrap=True)

    if seconds <= _SHORT or not out.is_terminal:
        yield (lambda _step, _share: None), say
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<30}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield (lambda step, share: bar.update(task, description=step, completed=share)), say


def table(report: PartitionReport) -> Table:
    """One line for each part."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for title in ("part", "owned", "halo", "edges"):
        made.add_column(title, justify="right")
    for part, counts in enumerate(zip(report.owned, report.halo, report.edges, strict=True)):
        made.add_row(str(part), *map(str, counts))
    return made
