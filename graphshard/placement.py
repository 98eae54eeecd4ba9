"""What the rows of a tensor mean on one rank.

A value of a captured program is placed by saying, for each dim, which *rows* a rank holds along it::

    x           f32[N, 16]   ->  dims = (Owned, None)         this rank's own nodes
    halo_sync(x)             ->  dims = (Halo, None)          own nodes, then copies of other ranks' nodes
    edge_index  i64[2, E]    ->  dims = (None, Edges), points = (HALO, OWNED)
    x[train_mask]            ->  dims = (Kept(Owned, "train_mask"), None)
    x.sum(0)                 ->  dims = (None,), partial = "sum"
    weight                   ->  dims = (None, None)          the same on every rank

Shapes cannot tell these apart ([E|N] and [N|E] have one symbolic size), so rows have an identity of their
own: two tensors combine row by row only where their rows are *equal*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum


@dataclass(frozen=True)
class Owned:
    """The nodes that this rank computes; n rows."""

    def __str__(self) -> str:
        return "Owned"


@dataclass(frozen=True)
class Halo:
    """The owned nodes, then the copies of other ranks' nodes that local edges read; n + h rows."""

    def __str__(self) -> str:
        return "Halo"


@dataclass(frozen=True)
class Edges:
    """The edges that end in this rank's nodes; e rows."""

    def __str__(self) -> str:
        return "Edges"


@dataclass(frozen=True)
class Kept:
    """The rows of ``rows`` that the boolean value named ``mask`` keeps; another count on each rank."""

    rows: Rows
    mask: str

    def __str__(self) -> str:
        return f"{self.rows}[{self.mask}]"


@dataclass(frozen=True)
class Joined:
    """Several row sets one after the other, as ``torch.cat`` leaves them."""

    parts: tuple[Rows, ...]

    def __str__(self) -> str:
        return "+".join(str(part) for part in self.parts)


Rows = Owned | Halo | Edges | Kept | Joined


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of a concatenation; nested joins are flattened, a join of one is the one."""
    flat: list[Rows] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Joined) else (part,))
    return flat[0] if len(flat) == 1 else Joined(tuple(flat))


def segments(rows: Rows) -> tuple[Rows, ...]:
    """The parts of a concatenation, in order; any other row set is its own single part."""
    return rows.parts if isinstance(rows, Joined) else (rows,)


def same_segments(a: Rows, b: Rows) -> bool:
    """Whether two row sets hold the same segments in any order (enough where all rows are equal)."""
    return sorted(map(str, segments(a))) == sorted(map(str, segments(b)))


class Points(IntEnum):
    """What the integers of a tensor number, ordered by how far they reach."""

    OWNED = 1
    HALO = 2

    def __str__(self) -> str:
        return self.name.lower()


Pointing = Points | tuple[Points | None, ...] | None
"""One answer for the whole tensor, or one for each index of dim 0 (the two rows of an ``edge_index``)."""


@dataclass(frozen=True)
class Placed:
    """The placement of a tensor.

    Attributes:
        dims: for each dim, the rows a rank holds along it; None where every rank holds the whole dim.
        points: what the integers number, if they are local node numbers.
        partial: the reduction over ranks ("sum", "max", "min") that still has to be done, if any; "stack" where
            each rank holds a value of its own that is to be stacked with the others'.
        mirror: the reduction over all copies of a node that still has to be done, for rows in ``Halo``.
        uniform: all rows along the sharded dim are equal, so their order does not matter.
        loops: for a mask, the values among which it keeps only entries that are owned nodes
            (``src == dst`` keeps self loops, whose source is owned); as ``(value name, row or None)``.
        complement: for a mask, the same for its negation.
    """

    dims: tuple[Rows | None, ...]
    points: Pointing = None
    partial: str | None = None
    mirror: str | None = None
    uniform: bool = False
    loops: frozenset[tuple[str, int | None]] = frozenset()
    complement: frozenset[tuple[str, int | None]] = frozenset()

    @property
    def sharded(self) -> tuple[int, ...]:
        """The dims along which a rank holds only some rows."""
        return tuple(i for i, rows in enumerate(self.dims) if rows is not None)

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the same, final value."""
        return not self.sharded and self.partial is None

    def plain(self) -> Placed:
        """The same rows with nothing said about the values."""
        return Placed(self.dims, uniform=self.uniform)

    def resolved(self) -> Placed:
        """The placement after the pending reduction over ranks."""
        if self.mirror:
            return replace(self, dims=tuple(Owned() if d == Halo() else d for d in self.dims), mirror=None)
        return replace(self, partial=None)

    def __str__(self) -> str:
        if self.partial:
            return f"Partial({self.partial})"
        if not self.sharded:
            return "Replicated"
        dim = self.sharded[0]
        text = f"Mirror({self.mirror})" if self.mirror else str(self.dims[dim])
        if dim:
            text += f" in dim {dim}"
        return text + (f" -> {_points_text(self.points)}" if self.points else "")


@dataclass(frozen=True)
class Size:
    """An int that counts rows: locally the rank's own count, as a number the sum over the ranks.

    Attributes:
        rows: the row sets whose counts it adds up; empty where it is equal on all ranks.
        number: it was computed from row counts (``1 / n``), so it is global and no longer a size.
    """

    rows: tuple[Rows, ...] = ()
    number: bool = False

    def __str__(self) -> str:
        return f"Size({'+'.join(map(str, self.rows))})" if self.rows else "Number"


Placement = Placed | Size | tuple["Placement", ...]
"""The placement of any value of a program: a tensor, an int or float, a tuple of them."""


def _points_text(points: Pointing) -> str:
    if isinstance(points, tuple):
        return "(" + ", ".join(str(p) if p else "-" for p in points) + ")"
    return str(points)


def replicated(ndim: int) -> Placed:
    """A tensor of ``ndim`` dims that every rank holds whole."""
    return Placed((None,) * ndim)


def widest(*points: Pointing) -> Pointing:
    """What the entries of several tensors point into when they are joined entry by entry.

    ``None`` where any of them points into nothing.
    """
    if any(p is None for p in points):
        return None
    length = max((len(p) for p in points if isinstance(p, tuple)), default=0)
    if not length:
        return max(p for p in points if isinstance(p, Points))
    spread = [p if isinstance(p, tuple) else (p,) * length for p in points]
    merged: list[Points | None] = []
    for row in zip(*spread, strict=True):
        known = [p for p in row if p is not None]
        merged.append(max(known) if len(known) == len(row) else None)
    return tuple(merged)


def reach(points: Pointing) -> Points | None:
    """The furthest that any entry points; None where some entry points into nothing."""
    if isinstance(points, tuple):
        known = [p for p in points if p is not None]
        return max(known) if known and len(known) == len(points) else None
    return points
