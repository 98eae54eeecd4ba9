"""Arguments and options that several subcommands share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from graphshard.options import Options

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
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Only the passes that make a program exact, none that make it faster.")
]
WithOption = Annotated[
    list[str] | None, typer.Option("--with", metavar="PASS", help="Also this pass, as overlap_halo_syncs.")
]
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", metavar="PASS", help="All but this pass; may be repeated.")
]
PassesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--passes",
        metavar="SPEC",
        help="Also a pass of your own: file.py:Name or pkg.mod:Name, the pass or its class; may be repeated.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, nothing else.")]


class Dtype(StrEnum):
    """Floating dtype of model and data."""

    float32 = "float32"
    float64 = "float64"


def chosen_passes(
    plain: bool, added: Sequence[str] | None, left_out: Sequence[str] | None, own: Sequence[str] | None = None
) -> Options:
    """The passes that ``--plain``, ``--with``, ``--without`` and ``--passes`` ask for."""
    from dataclasses import replace

    from graphshard.options import Options
    from graphshard.tools.targets.load import load_pass

    known = Options.choices()
    for name in (*(added or ()), *(left_out or ())):
        if name not in known:
            raise typer.BadParameter(f"there is no pass {name!r} to choose: {', '.join(known)}")
    start = Options.none() if plain else Options()
    wanted = dict.fromkeys(added or (), True) | dict.fromkeys(left_out or (), False)
    return replace(start, **wanted, passes=tuple(map(load_pass, own or ())))


def assignment(text: str) -> tuple[str, str]:
    """``NAME=SPEC`` as both."""
    name, sign, spec = text.partition("=")
    if not (name and sign and spec):
        raise typer.BadParameter(f"{text!r} is not NAME=role[:dtype[:sizes]], such as y=node:i64")
    return name, spec
