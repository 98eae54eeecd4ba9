"""From what a program returns to placed tensors: rows that only the program knew get a name outside of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from graphshard.execute.run import Outputs
from graphshard.ir.placement import Edges, Given, Joined, Kept, Owned, Placed, Rows, replicated
from graphshard.ir.program import Program
from graphshard.shard.placed import Origin, PlacedTensor, as_placed, name_of, new_name
from graphshard.shard.shard import Shard


def names_of(values: Sequence[Any]) -> list[str | None]:
    """What the flat inputs of a program are called outside of it; None of what has no name there."""
    return [name_of(value) if isinstance(value, PlacedTensor) else None for value in values]


class Naming:
    """The names of the rows of one call.

    Args:
        program: what was called.
        names: of its flat inputs, from :func:`names_of`.
        given: rows that were handed in, by their name in the program -> outside.
        call: a name of the call; where everything it was made from has a name, calls alike have one name.
    """

    def __init__(
        self, program: Program, names: Sequence[str | None], given: Mapping[str, str], call: str
    ) -> None:
        self._masks = {
            spec.name: names[int(spec.target)]
            for spec in program.inputs
            if spec.kind == "user" and int(spec.target) < len(names)
        }
        self._given, self._call = given, call

    def placement(self, placed: Placed) -> Placed:
        """The same placement in the words of outside."""
        dims = tuple(None if rows is None else self.rows(rows) for rows in placed.dims)
        return Placed(dims, points=placed.points, uniform=placed.uniform)

    def rows(self, rows: Rows) -> Rows:
        """All nodes, all edges, or rows that outside are known by a name alone."""
        if isinstance(rows, (Owned, Edges)):
            return rows
        if isinstance(rows, Given):
            return Given(self._given[rows.name])
        return Given(digest(self._text(rows)))

    def _text(self, rows: Rows) -> str:
        match rows:
            case Given(name):
                return self._given[name]
            case Kept(inner, mask):
                known = self._masks.get(mask)
                return f"{self._text(inner)}[{known or f'{self._call}.{mask}'}]"
            case Joined(parts):
                return "+".join(self._text(part) for part in parts)
        return str(rows) if isinstance(rows, (Owned, Edges)) else f"{self._call}.{rows}"


def digest(text: str) -> str:
    """A short name for a long one."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def placed_outputs(
    outputs: Outputs, shard: Shard, group: str, naming: Naming, ids: Mapping[str, Tensor], call: str
) -> list[Any]:
    """What a program returned, as tensors of the whole graph.

    Args:
        outputs: of the program.
        shard: this rank's. group: the process group's name.
        naming: of the call.
        ids: of rows that were handed in, by their name outside: their places in the whole.
        call: a name of the call.
    """
    found: list[Any] = []
    for number, (value, placement) in enumerate(zip(outputs.values, outputs.placements, strict=True)):
        if not isinstance(value, Tensor) or not isinstance(placement, Placed):
            found.append(value)
            continue
        placed, places = naming.placement(placement), None
        rows = placement.dims[placement.sharded[0]] if placement.sharded else None
        if rows is not None and isinstance(outside := naming.rows(rows), Given):
            places = outputs.ids.get(str(rows), ids.get(outside.name))
        origin = Origin(shard, placed, group, places, digest(f"{call}:{number}"))
        found.append(as_placed(value, origin))
    return found


def as_placed_outputs(
    outputs: Outputs, shard: Shard, group: str, names: Sequence[str | None]
) -> tuple[Any, Any]:
    """Forward's return value as tensors of the whole graph, and what it leaves on its modules, which is plain.

    Args:
        outputs: of the program. shard: this rank's. group: the process group's name.
        names: of the program's flat inputs, from :func:`names_of`.
    """
    if shard.world_size == 1:
        return outputs.restore()  # type: ignore[no-any-return]
    call = new_name()
    naming = Naming(outputs.compiled.program, names, {}, call)
    return restored(outputs, placed_outputs(outputs, shard, group, naming, {}, call))


def restored(outputs: Outputs, values: list[Any]) -> tuple[Any, Any]:
    """Forward's return value of these values, and what it leaves on its modules, which is plain."""
    result, _ = replace(outputs, values=values).restore()
    _, left = outputs.restore()
    return result, left


def same_on_all(value: Tensor, like: PlacedTensor) -> Tensor:
    """A value that every rank holds whole, of the graph of another."""
    origin = like.origin
    return as_placed(value, Origin(origin.shard, replicated(value.dim()), origin.group))


__all__ = ["Naming", "as_placed_outputs", "digest", "names_of", "placed_outputs", "restored", "same_on_all"]
