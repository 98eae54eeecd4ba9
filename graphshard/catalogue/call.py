"""What a placement rule sees: one call of the program, and the edits it may ask for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch import fx

from graphshard.catalogue.edits import AllReduce, Edit, GlobalCount, GlobalIds, HaloReduce
from graphshard.errors import UnsupportedOperation
from graphshard.ir.calls import packet_of
from graphshard.ir.placement import (
    Halo,
    Owned,
    Placed,
    Placement,
    Points,
    Rows,
    Size,
    join,
    reach,
    replicated,
    same_segments,
)
from graphshard.ir.source import where
from graphshard.private.torch_ops import OpOverload, schema_of


def mirrored(placed: Placed) -> Halo:
    """The halo rows of a value whose copies hold terms."""
    return next(rows for rows in placed.dims if isinstance(rows, Halo))


def shape_of(value: Any) -> tuple[Any, ...]:
    """The shape of a node's example value (ints and SymInts); of a Python scalar ``()``."""
    example = value.meta.get("val") if isinstance(value, fx.Node) else value
    return tuple(example.shape) if isinstance(example, torch.Tensor) else ()


class Placements(Protocol):
    """The placement of each node that a call reads: a dict of them, or what the nodes carry."""

    def __getitem__(self, node: fx.Node, /) -> Placement: ...


class Call:
    """One node with its arguments by name and their placements.

    Reading an argument through :meth:`tensor` hands out the placement *after* a pending reduction and
    records that the reduction is needed, so that rules never see a partial value.
    """

    def __init__(self, node: fx.Node, placements: Placements, edits: list[Edit]) -> None:
        self.node = node
        self.edits = edits
        self._placements = placements
        self._seen: set[fx.Node] = set()
        self.args = _bind(node)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.args.get(name, default)

    def raw(self, value: fx.Node) -> Placement:
        """The placement of a node as it stands, pending reductions included."""
        self._seen.add(value)
        return self._placements[value]

    def tensor(self, value: Any) -> Placed:
        """The placement of a tensor argument, or of a Python scalar or count read as a number."""
        if isinstance(value, str) and value in self.args:
            value = self.args[value]
        if not isinstance(value, fx.Node):
            return replicated(0)
        placement = self.raw(value)
        if isinstance(placement, Size):
            return self.number(value)
        if not isinstance(placement, Placed):
            self.refuse(f"takes {value.name}, which is no tensor, where a tensor is expected")
        if placement.partial:
            self.edits.append(AllReduce(value, placement.partial))
        if placement.mirror:
            self.edits.append(HaloReduce(value, placement.mirror, mirrored(placement)))
        return placement.resolved()

    def values(self, value: Any) -> Placed:
        """The placement of a tensor whose *numbers* are used: node numbers become global ids first."""
        placement = self.tensor(value)
        if placement.points is None:
            return placement
        node = self.args[value] if isinstance(value, str) else value
        if reach(placement.points) is None or isinstance(placement.points, tuple):
            self.refuse(
                "computes with a tensor whose rows number different things (an edge_index as a whole)",
                "select one row of it first",
            )
        self.edits.append(GlobalIds(node, self.node))
        return placement.plain()

    def number(self, value: fx.Node) -> Placed:
        """Read an int or float as a number; a row count becomes the count over all ranks."""
        placement = self.raw(value)
        if isinstance(placement, Size) and placement.rows:
            self.edits.append(GlobalCount(value, self.node))
        return replicated(0)

    def rows_of_size(self, value: Any) -> tuple[Rows | None, bool]:
        """The rows that a size argument counts (None for an ordinary int), and whether there are any."""
        if not isinstance(value, fx.Node):
            return None, False
        placement = self.raw(value)
        if not isinstance(placement, Size):
            self.refuse(f"takes the tensor {value.name} as a size")
        if placement.number:
            self.refuse(
                f"takes {value.name} as a size, but it was computed from row counts, so it is a number of "
                "the whole graph and not the count of any rows",
                "use the size of a tensor, or a sum of such sizes",
            )
        return (join(placement.rows), True) if placement.rows else (None, False)

    def shape(self, value: Any) -> tuple[Any, ...]:
        return shape_of(self.args[value] if isinstance(value, str) else value)

    def dim(self, name: str, ndim: int) -> int:
        """A dim argument as a number in 0..ndim-1."""
        dim = int(self.args[name])
        return dim % ndim if ndim else 0

    def key(self, value: Any) -> tuple[str, int | None]:
        """Which value this is, for facts about masks: row i of ``edge_index`` is ("edge_index", i)."""
        if isinstance(value, fx.Node) and value.target is torch.ops.aten.select.int and value.args[1] == 0:
            return (str(value.args[0]), int(str(value.args[2])))
        return (str(value), None)

    def refuse(self, problem: str, instead: str | None = None) -> NoReturn:
        """Raise UnsupportedOperation, naming the op, the module path and the user's line."""
        text = f"{operator_name(self.node)} {problem}{where(self.node)}"
        raise UnsupportedOperation(text + (f". Instead: {instead}." if instead else "."))

    def check_whole(self, *names: str) -> None:
        """Refuse an argument that is spread over the ranks where every rank needs all of it; None is none."""
        for name in names:
            if isinstance(self.args.get(name), fx.Node) and self.tensor(name).sharded:
                self.refuse(f"takes a {name} that is spread over the ranks")

    def unseen(self) -> Iterator[fx.Node]:
        """The arguments that the rule did not look at."""
        return (n for n in self.node.all_input_nodes if n not in self._seen)


def operator_name(node: fx.Node) -> str:
    """``aten.index_select`` for an overload, the plain name for a Python function."""
    packet = packet_of(node)
    return getattr(node.target, "__name__", str(node.target)) if packet is None else str(packet)


def _bind(node: fx.Node) -> dict[str, Any]:
    """Arguments by the names of the op's schema, or of the function's signature, defaults filled in."""
    if not isinstance(node.target, OpOverload):
        names, defaults = _signature(node.target)
        return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    bound: dict[str, Any] = {}
    for i, argument in enumerate(schema_of(node.target).arguments):
        if i < len(node.args):
            bound[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


@functools.cache
def _signature(function: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of a Python function's parameters, and the defaults of those that have one."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none: named as those of ``operator`` are
        return tuple("abcdefgh"), {}
    return tuple(p.name for p in parameters), {
        p.name: p.default for p in parameters if p.default is not p.empty
    }


def same_rows(call: Call, values: Sequence[Placed], dims: Sequence[int]) -> Rows | None:
    """The one row set that ``values`` share along their dims, uniform ones taking the others' rows."""
    found: Rows | None = None
    uniform = True
    for placed, dim in zip(values, dims, strict=True):
        rows = placed.dims[dim]
        if rows is None:
            continue
        if found is None:
            found, uniform = rows, placed.uniform
        elif rows == found:
            uniform = uniform and placed.uniform
        elif (placed.uniform or uniform) and same_segments(rows, found):
            if uniform and not placed.uniform:
                found, uniform = rows, False
        else:
            call.refuse(
                f"combines rows that do not belong together: {found} with {rows}",
                "combine tensors over the same nodes or edges, in the same order",
            )
    return found


def check_same_nodes(call: Call, rows: Owned | Halo, points: Points) -> None:
    """Refuse to read or write rows of one node set by numbers of another, or of another plan's halo."""
    if rows.nodes != points.nodes:
        call.refuse(
            f"indexes the rows {rows} by numbers of other nodes ({points})",
            "index each type of nodes with the edges that end in it",
        )
    if isinstance(rows, Halo) and not points.fits(rows):
        call.refuse(f"indexes the rows {rows} by numbers of another halo ({points})")
