"""``graphshard train``: train a model on several ranks, here or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphshard.tools import output
from graphshard.tools.options import (
    DropoutOption,
    Dtype,
    HeadsOption,
    HiddenOption,
    JsonOption,
    LayersOption,
    SeedOption,
    TargetArgument,
)

if TYPE_CHECKING:
    from rich.table import Table

    from graphshard.tools.comparison import Comparison
    from graphshard.training import History


def train(
    target: TargetArgument = "gcn",
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="The graph: karate, digits, sbm:nodes=1000,degree=8, planetoid:Cora?root=PATH, FILE.pt, FILE.npz.",
            show_default="karate",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Number of processes on this machine.", min=1, show_default="2, or as --shards"),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Steps, each over the whole graph.", min=1)] = 100,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.", min=0.0)] = 0.01,
    weight_decay: Annotated[float, typer.Option(help="Of Adam.", min=0.0)] = 5e-4,
    dtype: Annotated[Dtype, typer.Option(help="Floating dtype of model and data.")] = Dtype.float32,
    shards: Annotated[
        Path | None, typer.Option(help="Directory that `graphshard partition` wrote: no partitioning now.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train on one machine too; fail if float64 losses differ.")
    ] = False,
    hidden: HiddenOption = 16,
    layers: LayersOption = 2,
    dropout: DropoutOption = 0.5,
    heads: HeadsOption = 4,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Train a model on several ranks: here, or as one rank of torchrun's."""
    if compare and shards is not None and data is None:
        raise typer.BadParameter("to compare, give the whole graph too, as DATA", param_hint="--compare")
    import functools
    import os
    from dataclasses import replace

    import torch

    from graphshard.data import load_data
    from graphshard.shard_manifest import read_manifest
    from graphshard.tools import comparison
    from graphshard.tools.job import Job, Run, run_here, run_local, under_torchrun
    from graphshard.tools.targets import load_target
    from graphshard.training import Recipe

    load = functools.cache(lambda: load_data(data or "karate"))
    whole = None if shards is not None and data is None else load()
