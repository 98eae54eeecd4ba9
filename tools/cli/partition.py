"""``graphshard partition``: cut a graph into shards, say how good the cut is, write the shards."""

from __future__ import annotations

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
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for train: karate, FILE.npz, ...")],
    parts: Annotated[int, typer.Option(help="Number of parts: one for each rank.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Directory to write; without it, only report.")] = None,
    method: Annotated[Method, typer.Option(help="How nodes are given to parts.")] = Method.metis,
    seed: Annotated[int, typer.Option(help="Of what the method draws.", min=0)] = 0,
    positions: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For rcb: the node tensor that holds positions, if not pos."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Cut a graph into shards, one for each rank."""
    import graphshard
    from graphshard.partitioning.partition import partition_to
    from graphshard.tools.data.sources import load_data

    graph = load_data(data)
    if out is None:
        shards = graphshard.partition(graph, parts, method=method.value, seed=seed, positions=positions)
        report = shards.report
    else:
        report = partition_to(out, graph, parts, method=method.value, seed=seed, positions=positions)
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


def table(report: PartitionReport) -> Table:
    """One line for each part."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for title in ("part", "owned", "halo", "edges"):
        made.add_column(title, justify="right")
    for part, counts in enumerate(zip(report.owned, report.halo, report.edges, strict=True)):
        made.add_row(str(part), *map(str, counts))
    return made
