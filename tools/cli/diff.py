"""``graphshard diff``: what distributing a model changes in it, and what it then sends."""

from __future__ import annotations

from typing import Annotated

import typer

from graphshard.tools import output
from graphshard.tools.cli.options import (
    DropoutOption,
    HeadsOption,
    HiddenOption,
    JsonOption,
    LayersOption,
    PassesOption,
    PlainOption,
    SeedOption,
    WithOption,
    WithoutOption,
    assignment,
    chosen_passes,
)

_STYLES = {
    "added": "green",
    "removed": "red",
    "changed": "yellow",
    "unchanged": "dim",
    "fold": "dim",
    "module": "bold",
    "title": "bold cyan",
}


def diff(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The model, as for train; a built-in one needs DATA.")
    ],
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="As for train; without it, sizes are symbols.")
    ] = None,
    *,
    parts: Annotated[
        int | None, typer.Option(help="With DATA, number of parts.", min=1, show_default="2")
    ] = None,
    between: Annotated[
        bool, typer.Option("--between", help="What each pass did, one after the other.")
    ] = False,
    evaluate: Annotated[bool, typer.Option("--eval", help="In eval mode, without a backward.")] = False,
    features: Annotated[int | None, typer.Option(help="Without DATA, the width of x.", min=1)] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=SPEC",
            help="Without DATA, what an argument of forward is: role[:dtype[:sizes]], as in y=node:i64 or "
            "w=edge:f32:3x4.",
        ),
    ] = None,
    hidden: HiddenOption = 16,
    layers: LayersOption = 2,
    dropout: DropoutOption = 0.5,
    heads: HeadsOption = 4,
    seed: SeedOption = 0,
    plain: PlainOption = False,
    with_: WithOption = None,
    without: WithoutOption = None,
    passes: PassesOption = None,
    why: Annotated[
        str | None,
        typer.Option(metavar="VALUE", help="Only why this value is there: a name as the diff has it."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the syncs and reductions that distributing a model inserts, with their rows and bytes."""
    options = chosen_passes(plain, with_, without, passes)
    from rich.text import Text

    from graphshard.preview import diff as diff_model
    from graphshard.tools.data.sources import load_data
    from graphshard.tools.targets.load import load_target

    graph = None if data is None else load_data(data)
    model = load_target(target, graph, hidden=hidden, layers=layers, dropout=dropout, heads=heads, seed=seed)
    found = diff_model(
        model(),
        graph,
        num_parts=parts,
        between=between,
        train=not evaluate,
        features=features,
        inputs=dict(map(assignment, inputs or ())),
        options=options,
    )
    if why is not None:
        output.show(found.why(why))
        return
    if json:
        output.show_json({"target": target, "data": data, **found.as_dict()})
        return
    console = output.console()
    for kind, text in found.lines():
        console.print(Text(text.rstrip(), style=_STYLES.get(kind, "")), soft_wrap=True)
