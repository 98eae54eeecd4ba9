"""return_row_ids: rows that a mask kept, or that were joined, leave the program with their places in the whole.

Before::  kept = index(x, [mask]); return kept
After::   kept = index(x, [mask]); kept_ids = index(owned_ids, [mask]); return kept, kept_ids

Of all nodes and of all edges a rank knows the places. Of these nobody but the program does; in ascending order they
are the order of one machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.infer.row_ids import row_ids
from graphshard.ir.placement import Edges, Owned, Placed, Rows
from graphshard.ir.program import Output, Program


@dataclass(frozen=True)
class ReturnRowIds:
    """One more output for each kind of rows among the user's outputs that are not all of a set; counts them."""

    name: ClassVar[str] = "return_row_ids"

    def run(self, program: Program) -> int:
        output = program.output_node()
        values: list[fx.Node] = list(output.args[0])  # type: ignore[arg-type]
        known = {str(spec.target) for spec in program.outputs if spec.kind == "ids"}
        added = 0
        for value, spec in list(zip(values, program.outputs, strict=True)):
            rows = rows_of(value) if spec.kind == "user" else None
            if rows is None or isinstance(rows, (Owned, Edges)) or str(rows) in known:
                continue
            with (emit := Emitter(program, value)).before(output):
                values.append(row_ids(emit, rows))
            program.outputs.append(Output("ids", str(rows)))
            known.add(str(rows))
            added += 1
        output.args = (tuple(values),)
        return added


def rows_of(value: object) -> Rows | None:
    """The rows along the one sharded dim of an output; None where it has none, or several."""
    placement = value.meta.get("placement") if isinstance(value, fx.Node) else None
    if not isinstance(placement, Placed) or len(placement.sharded) != 1:
        return None
    return placement.dims[placement.sharded[0]]
