"""What the rows of a tensor mean on one rank.

A value of a captured program is placed by saying, for each dim, which *rows* a rank holds along it::

    x           f32[N, 16]   ->  dims = (Owned, None)         this rank's own nodes
    halo_sync(x)             ->  dims = (Halo, None)          own nodes, then copies of other ranks' nodes
    edge_index  i64[2, E]    ->  dims = (None, Edges), points = (halo, owned)
    x[train_mask]            ->  dims = (Kept(Owned, "train_mask"), None)
    x.sum(0)                 ->  dims = (None,), partial = "sum"
    weight                   ->  dims = (None, None)          the same on every rank

Shapes cannot tell these apart ([E|N] and [N|E] have one symbolic size), so rows have an identity of their
own: two tensors combine row by row only where their rows are *equal*.

A graph has node sets and edge sets. A homogeneous graph has one of each, without a name; of a heterogeneous one
they are its types, and pairs to be scored are a further edge set::

    x_dict["paper"]                    ->  Owned(paper)
    edge_index_dict[author, ., paper]  ->  Edges(author__writes__paper) -> (halo(author), owned(paper))
    edge_label_index                   ->  Edges(edge_label_index) -> (halo(pairs), owned)

A node set has a *plan* for each kind of index that reads it: one for the edges that messages run along, one for
pairs, so that a layer does not fetch the rows that only pairs need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphshard.graph.schema import MESSAGES


def _named(word: str, *names: str) -> str:
    """``Owned``, ``Owned(paper)``, ``Halo(paper, pairs)``: empty names are left out."""
    given = ", ".join(name for name in names if name)
    return f"{word}({given})" if given else word


@dataclass(frozen=True)
class Owned:
    """The nodes of one node set that this rank computes; n rows."""

    nodes: str = ""

    def __str__(self) -> str:
        return _named("Owned", self.nodes)


@dataclass(frozen=True)
class Halo:
    """The owned nodes, then the copies of other ranks' nodes that a plan's indices read; n + h rows."""

    nodes: str = ""
    plan: str = MESSAGES

    def __str__(self) -> str:
        return _named("Halo", self.nodes, self.plan)


@dataclass(frozen=True)
class Edges:
    """The edges of one edge set that end in this rank's nodes; e rows."""

    name: str = ""

    def __str__(self) -> str:
        return _named("Edges", self.name)


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


@dataclass(frozen=True)
class Sorted:
    """The same edges, numbered in the order of the value named ``by``."""

    rows: Rows
    by: str

    def __str__(self) -> str:
        return f"Sorted({self.rows})"


@dataclass(frozen=True)
class Given:
    """Rows that the program did not make and that are not all of a set: what another program kept or joined."""

    name: str

    def __str__(self) -> str:
        return f"Given({self.name})"


Rows = Owned | Halo | Edges | Kept | Joined | Sorted | Given


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
    return sorted(map(repr, segments(a))) == sorted(map(repr, segments(b)))


@dataclass(frozen=True)
class Points:
    """What the integers of a tensor number: rows of one node set.

    Attributes:
        nodes: the node set.
        plan: the plan in whose halo some of them are; None where all are owned.
    """

    nodes: str = ""
    plan: str | None = None

    @property
    def rows(self) -> Owned | Halo:
        """The rows that a table must have to be read by these numbers."""
        return Owned(self.nodes) if self.plan is None else Halo(self.nodes, self.plan)

    def fits(self, rows: Owned | Halo) -> bool:
        """Whether these numbers are numbers of ``rows``, without any row being fetched first."""
        return rows.nodes == self.nodes and (self.plan is None or rows == self.rows)

    def __str__(self) -> str:
        return _named("owned" if self.plan is None else "halo", self.nodes, self.plan or "")


def joined(*points: Points) -> Points | None:
    """What numbers point into that are some of each: the furthest; None where no plan holds them all."""
    plans = {p.plan for p in points if p.plan is not None}
    if len({p.nodes for p in points}) != 1 or len(plans) > 1:
        return None
    return Points(points[0].nodes, next(iter(plans), None))


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
            owned = (Owned(d.nodes) if isinstance(d, Halo) else d for d in self.dims)
            return replace(self, dims=tuple(owned), mirror=None)
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


@dataclass(frozen=True)
class Plan:
    """Part of the plan that fetches the rows ``halo``: an index of rows to send, or counts."""

    halo: Halo

    def __str__(self) -> str:
        return f"Plan({self.halo})"


@dataclass(frozen=True)
class Matrix:
    """The structure of a set of edges as a sparse matrix, which a rank holds for its own edges.

    Attributes:
        rows: what an aggregation over it makes.
        columns: the rows of the table that it reads.
        edges: the rows of its weights.
    """

    rows: Rows
    columns: Rows
    edges: Rows

    def __str__(self) -> str:
        return f"Matrix({self.rows} <- {self.columns})"


@dataclass(frozen=True)
class Found:
    """Where a rank has what some numbers number: for each a row of ``rows``, or their count where it has none."""

    rows: Rows

    def __str__(self) -> str:
        return f"Found({self.rows})"


Placement = Placed | Size | Plan | Matrix | Found | tuple["Placement", ...]
"""The placement of any value of a program: a tensor, an int or float, a plan's part, a matrix, a tuple of them."""


def _points_text(points: Pointing) -> str:
    if isinstance(points, tuple):
        return "(" + ", ".join(str(p) if p else "-" for p in points) + ")"
    return str(points)


def replicated(ndim: int) -> Placed:
    """A tensor of ``ndim`` dims that every rank holds whole."""
    return Placed((None,) * ndim)


def widest(*points: Pointing) -> Pointing:
    """What the entries of several tensors point into when they are joined entry by entry.

    ``None`` where any of them points into nothing, or no plan holds the rows of all.
    """
    if any(p is None for p in points):
        return None
    length = max((len(p) for p in points if isinstance(p, tuple)), default=0)
    if not length:
        return joined(*(p for p in points if isinstance(p, Points)))
    spread = [p if isinstance(p, tuple) else (p,) * length for p in points]
    merged: list[Points | None] = []
    for row in zip(*spread, strict=True):
        known = [p for p in row if p is not None]
        merged.append(joined(*known) if len(known) == len(row) else None)
    return tuple(merged)


def reach(points: Pointing) -> Points | None:
    """The furthest that any entry points; None where some entry points into nothing, or they have no plan."""
    if isinstance(points, tuple):
        known = [p for p in points if p is not None]
        return joined(*known) if known and len(known) == len(points) else None
    return points
