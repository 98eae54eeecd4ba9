"""``graphshard diff``: what distributing a model changes in it, and what it then sends."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from graphshard.errors import DataError

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
    target: Annotated[str, typer.Argument(help="file.py:name or pkg.mod:name, a module or a factory of one")],
    data: Annotated[
        str | None, typer.Argument(help="karate, sbm:nodes=.., a .pt or .npz; none: in symbols")
    ] = None,
    *,
    parts: Annotated[int | None, typer.Option(help="into how many parts to cut the data [2]")] = None,
    between: Annotated[bool, typer.Option("--between", help="what each pass did, one by one")] = False,
    evaluate: Annotated[
        bool, typer.Option("--eval", help="the model in eval mode, without backward")
    ] = False,
    features: Annotated[int | None, typer.Option(help="without data, the width of x")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="without data, what an argument is: NAME=role[:dtype[:sizes]], y=node:i64"
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Show the syncs and reductions that distributing TARGET inserts, with rows and bytes."""
    from graphshard.inspect_model import diff as diff_model
    from graphshard.tools.targets import load_target

    found = diff_model(
        load_target(target),
        data,
        num_parts=parts,
        between=between,
        train=not evaluate,
        features=features,
        inputs=dict(map(_assignment, inputs or ())),
    )
    if json_output:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    console = Console(highlight=False)
    for kind, text in found.lines():
        console.print(Text(text.rstrip(), style=_STYLES.get(kind, "")), soft_wrap=True)


def _assignment(text: str) -> tuple[str, str]:
    name, sign, spec = text.partition("=")
    if not (name and sign and spec):
        raise DataError(f"--input takes NAME=role[:dtype[:sizes]], such as y=node:i64, not {text!r}")
    return name, spec
