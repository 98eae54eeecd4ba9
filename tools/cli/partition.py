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


def partition(
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for train: karate, FILE.npz, ...")],
    parts: Annotated[int, typer.Option(help="Number of parts: one for each rank.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Directory to write; without it, only report.")] = None,
    method: Annotated[Method, typer.Option(help="How nodes are given to parts.")] = Method.metis,
    seed: Annotated[int, typer.Option(help="Of METIS.", min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Cut a graph into shards, one for each rank."""
    import graphshard
    from graphshard.tools.data.sources import load_data

    graph = load_data(data)
    shards = graphshard.partition(graph, parts, method=method.value, seed=seed)
    if out is not None:
        shards.save(out)
    report = shards.report
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
