"""Arguments and options that several subcommands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The model: gcn, sage, gat, gin; or file.py:name or pkg.mod:name, a module or a function "
        "without arguments that makes one.",
        show_default="gcn",
    ),
]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="The graph: karate, digits, sbm:nodes=1000,degree=8, planetoid:Cora?root=PATH, FILE.pt, FILE.npz.",
        show_default="karate",
    ),
]
HiddenOption = Annotated[int, typer.Option(help="Hidden units of a built-in model.", min=1)]
LayersOption = Annotated[int, typer.Option(help="Layers of a built-in model.", min=1)]
DropoutOption = Annotated[float, typer.Option(help="Dropout of a built-in model.", min=0.0, max=0.99)]
HeadsOption = Annotated[int, typer.Option(help="Attention heads of gat.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Of initial weights, dropout masks and METIS.", min=0)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, nothing else.")]


class Dtype(StrEnum):
    """Floating dtype of model and data."""

    float32 = "float32"
    float64 = "float64"
