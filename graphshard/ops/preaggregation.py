"""What a sum over neighbours needs of other ranks, in the fewest rows: rows of sources, or sums that their owner makes.

::

    rank 0 owns x, y, z;  rank 1 owns a, b.  Edges: x -> a, y -> a, z -> a, z -> b

    raw rows      rank 0 sends  x, y, z            3 rows       rank 1 sums  a = x + y + z,  b = z
    partial sums  rank 0 sends  x + y + z, z       2 rows                    a,              b
    the best      rank 0 sends  z, x + y           2 rows                    a = (x + y) + z,  b = z

An edge between two ranks is served by the row of its source or by the sum of its destination, so what one rank sends
to another is a vertex cover of the edges between them, and the least is a minimum one (``covers.py``). What travels is
a sparse product, and so is what is made of it::

    forward     sent = S x        out  = A [x | received]        A: edges from owned nodes, raw rows, 1 for each sum
    backward    sent = B g        grad = C [g | received]        B, C: the transposes, cut in another place

Both ways are the same op, so derivatives of any order are. The owner of a source is told once for each graph what it
has to send; the weights of its sums travel along. Field's name: hybrid pre- and post-aggregation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphshard.kernels.structure import PADDING, Grouped, Structure
from graphshard.ops.covers import minimum_vertex_cover
from graphshard.ops.registration import fake, operator
from graphshard.ranks.groups import exchange

__all__ = ["Preaggregation", "Product", "Way", "preaggregation"]


class Product(NamedTuple):
    """A sparse matrix by row.

    Attributes:
        start: ``[rows + 1]``, where each row's terms begin.
        other: ``[terms + PADDING]``, the column of each; int32 where the sizes fit, else int64.
        weights: ``[terms, heads]``; ``[0, 0]`` for 1.
    """

    start: Tensor
    other: Tensor
    weights: Tensor

    @property
    def grouped(self) -> Grouped:
        """As the kernels take it: the terms are numbered by row."""
        return Grouped(self.start, self.other, self.other[:0])

    @property
    def weight(self) -> Tensor | None:
        return self.weights if self.weights.size(1) else None


class Way(NamedTuple):
    """One direction, forward or backward.

    Attributes:
        sum: of own rows and the rows that come, in the order of the ranks.
        sent: of own rows, grouped by the rank that gets them.
    """

    sum: Product
    sent: Product


class Preaggregation(NamedTuple):
    """What :func:`preaggregation` makes.

    Attributes:
        forward, backward: of rows, and of their gradients.
        splits: int64 ``[2, ranks]`` on the CPU: how many rows this rank sends to each, and gets from each, forward.
    """

    forward: Way
    backward: Way
    splits: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Preaggregation:
        """That of which :attr:`tensors` made a list."""
        a, b, c, d = (Product(*tensors[i : i + 3]) for i in range(0, 12, 3))
        return cls(Way(a, b), Way(c, d), tensors[12])

    @staticmethod
    def is_one(tensors: Sequence[Tensor]) -> bool:
        """Whether a list is one, and not a structure of edges."""
        return len(tensors) == 13

    @property
    def tensors(self) -> list[Tensor]:
        """Thirteen tensors, none of which shares memory with another."""
        return [t for way in self[:2] for product in way for t in product] + [self.splits]

    def route(self, back: bool) -> tuple[Way, list[int], list[int]]:
        """One direction, and how many rows are sent and received in it."""
        send, receive = self.splits.tolist()
        return (self.backward, receive, send) if back else (self.forward, send, receive)


@operator(
    "preaggregation(Tensor? weight, Tensor[] structure, Tensor send_index, SymInt[] send_splits, "
    "SymInt[] recv_splits, str group, float terms_of_a_row) -> Tensor[]"
)
def preaggregation(
    weight: Tensor | None,
    structure: Sequence[Tensor],
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
    terms_of_a_row: float,
) -> list[Tensor]:
    """The fewest rows for ``weighted_sum(halo_sync(x), weight, structure)``; collective, once for each graph.

    Args:
        weight: ``[edges]`` or ``[edges, heads]``, None for 1. structure: of edges from owned and halo nodes.
        send_index, send_splits, recv_splits, group: as for ``graphshard.ops.exchange.halo_sync``.
        terms_of_a_row: a pair of ranks mixes raw rows and sums where each row that this saves pays for so many more
            terms of sums; elsewhere it sends raw rows. 0 for raw rows alone.

    Returns:
        A :class:`Preaggregation`, as a list.
    """
    whole = Structure.of(structure)
    rows, owned = whole.by_row.groups, whole.by_column.groups - sum(recv_splits)
    weights = None if weight is None else weight.reshape(weight.size(0), weight.shape[1:].numel())
    served = _serve(_from_column(whole.by_row, weights, owned), rows, owned, recv_splits, terms_of_a_row)
    asked = _ask(served, send_index, send_splits, recv_splits, group)
    forward = Way(
        _joined(whole.by_row, rows, weights, served.places, served.sums_that_come(weights)),
        _product(asked.edges, sum(asked.splits)),
    )
    home = asked.edges.transposed
    home = home._replace(column=home.column + rows)  # behind the gradients of own rows
    leaving = served.leaving(_of_groups(whole.by_column, weights, owned, whole.by_column.groups))
    backward = Way(
        _joined(whole.by_column, owned, weights, None, home), _product(leaving, sum(served.splits))
    )
    return Preaggregation(forward, backward, torch.tensor([asked.splits, served.splits])).tensors


@fake(preaggregation)
def _preaggregation_fake(
    weight: Tensor | None,
    structure: Sequence[Tensor],
    _index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    *_: Any,
) -> list[Tensor]:
    context = torch.library.get_ctx()
    rows, owned = structure[0].size(0) - 1, structure[3].size(0) - 1 - sum(recv_splits)
    like = structure[0].new_empty(0, dtype=torch.int64) if weight is None else weight
    heads = 0 if weight is None else 1 if weight.dim() == 1 else weight.size(1)

    def product(starts: Any) -> list[Tensor]:
        start, other = (structure[0].new_empty(size) for size in (starts, context.new_dynamic_size()))
        weights = like.new_empty((0 if weight is None else context.new_dynamic_size(), heads))
        return [start, other, weights]

    forward, backward = ([*product(n + 1), *product(context.new_dynamic_size())] for n in (rows, owned))
    return [*forward, *backward, torch.empty((2, len(send_splits)), dtype=torch.int64)]


class _Edges(NamedTuple):
    """Terms of sums, ``weight * table[column]`` for ``row``: int64 ``[edges]``; ``[edges, heads]``, or None for 1."""

    row: Tensor
    column: Tensor
    weight: Tensor | None

    def at(self, which: Tensor | slice) -> _Edges:
        """Some of them, by a mask or by their places."""
        weight = None if self.weight is None else self.weight[which]
        return _Edges(self.row[which], self.column[which], weight)

    def and_others(self, others: _Edges) -> _Edges:
        """These, and others behind them."""
        weight = self.weight
        if weight is not None and others.weight is not None:
            weight = torch.cat([weight, others.weight])
        return _Edges(torch.cat([self.row, others.row]), torch.cat([self.column, others.column]), weight)

    @property
    def transposed(self) -> _Edges:
        return _Edges(self.column, self.row, self.weight)


class _Served(NamedTuple):
    """What this rank gets of others.

    Attributes:
        owned: how many rows it has itself.
        place: ``[halo]``, of each halo row that comes as it is the place among all that comes, -1 of others.
        sum_place, sum_row: of each sum that comes its place, and the row that it is added to.
        sums: of each edge that its source's owner takes in: row: the number of its sum among those of that rank;
            column: the source's number in the halo.
        splits: how many rows come from each rank.
    """

    owned: int
    place: Tensor
    sum_place: Tensor
    sum_row: Tensor
    sums: _Edges
    splits: list[int]

    @property
    def places(self) -> Tensor:
        """``[owned + halo]``, of each column the place in the table of own rows and those that come; -1 for none."""
        own = torch.arange(self.owned, device=self.place.device)
        return torch.cat([own, torch.where(self.place < 0, -1, self.place + self.owned)])

    def sums_that_come(self, weights: Tensor | None) -> _Edges:
        """The terms by which they are added."""
        ones = None if weights is None else weights.new_ones((self.sum_row.numel(), weights.size(1)))
        return _Edges(self.sum_row, self.sum_place + self.owned, ones)

    def leaving(self, halo: _Edges) -> _Edges:
        """What gradients are sent of: of the edges by halo column, and for each sum those of its row."""
        place = self.place[halo.row - self.owned]
        raw = halo._replace(row=place).at(place >= 0)
        sums = self.sums_that_come(halo.weight)
        return raw.and_others(sums._replace(row=self.sum_place, column=self.sum_row))


class _Asked(NamedTuple):
    """What others get of this rank: rows that they get, of which edges from owned nodes; how many rows to each."""

    edges: _Edges
    splits: list[int]


def _of_groups(grouped: Grouped, weights: Tensor | None, low: int, high: int) -> _Edges:
    """The edges of the rows ``low..high-1``; or, where they are grouped by column, those of the transposed matrix."""
    counts = grouped.start[low : high + 1].diff().long()
    row = torch.arange(low, high, device=counts.device).repeat_interleave(counts)
    places = slice(int(grouped.start[low]), int(grouped.start[high]))
    return _Edges(row, grouped.other[places].long(), _weights_at(grouped, weights, places))


def _from_column(grouped: Grouped, weights: Tensor | None, first: int) -> _Edges:
    """The edges from the columns ``first`` and behind, by row: those between two ranks, a small part of all."""
    places = (grouped.other[: grouped.edges] >= first).nonzero().flatten()
    row = torch.searchsorted(grouped.start, places.to(grouped.start.dtype), right=True) - 1
    return _Edges(row, grouped.other[places].long(), _weights_at(grouped, weights, places))


def _weights_at(grouped: Grouped, weights: Tensor | None, places: Tensor | slice) -> Tensor | None:
    """The weights of some edges, by their places among the grouped ones."""
    if weights is None:
        return None
    return weights[places] if grouped.ordered else weights[grouped.edge[places].long()]


def _serve(cut: _Edges, rows: int, owned: int, recv_splits: Sequence[int], terms_of_a_row: float) -> _Served:
    """Choose what comes of other ranks for each edge between two."""
    ranks, owner = len(recv_splits), _owners(recv_splits, cut.row.device)
    source = cut.column - owned
    # A row is a destination of its own for each rank that it has sources on.
    keys, destination = torch.unique(owner[source] * rows + cut.row, return_inverse=True)
    on, rows_of_keys = keys // max(rows, 1), keys % max(rows, 1)
    summed, raw = _chosen(destination, source, on, owner, ranks, terms_of_a_row)

    # From each rank the raw rows in the order of the halo, then the sums in the order of their rows.
    raws, sums = raw.nonzero().flatten(), summed.nonzero().flatten()
    place = torch.cat([2 * owner[raws], 2 * on[sums] + 1]).argsort(stable=True).argsort()
    raw_place = torch.full_like(owner, -1).index_copy_(0, raws, place[: raws.numel()])
    number = torch.full_like(keys, -1).index_copy_(0, sums, _within(on[sums], ranks))
    taken = cut._replace(row=number[destination], column=source).at(~raw[source])
    return _Served(
        owned,
        raw_place,
        place[raws.numel() :],
        rows_of_keys[sums],
        taken.at(owner[taken.column].argsort(stable=True)),
        torch.bincount(torch.cat([owner[raws], on[sums]]), minlength=ranks).tolist(),
    )


def _owners(splits: Sequence[int], device: torch.device) -> Tensor:
    """Of each halo row the rank that owns it."""
    return torch.arange(len(splits), device=device).repeat_interleave(
        torch.tensor(list(splits), device=device)
    )


def _within(group: Tensor, groups: int) -> Tensor:
    """The number of each entry among those of its group; groups lie one after the other."""
    counts = torch.bincount(group, minlength=groups)
    return torch.arange(group.numel(), device=group.device) - (counts.cumsum(0) - counts)[group]


def _chosen(
    destination: Tensor, source: Tensor, on: Tensor, owner: Tensor, ranks: int, terms_of_a_row: float
) -> tuple[Tensor, Tensor]:
    """Which destinations are served by sums, and which sources by their rows; ``on`` and ``owner``: of which rank."""
    device = source.device
    found = minimum_vertex_cover(destination.cpu(), source.cpu(), on.numel(), owner.numel())
    summed, raw = (each.to(device) for each in found)
    read = torch.zeros_like(raw)
    read[source] = True
    sums, raws, reads = (
        torch.bincount(of[which], minlength=ranks)
        for of, which in ((on, summed), (owner, raw), (owner, read))
    )
    # Each sum is one more term where it is added.
    mixed = (reads - raws - sums) * terms_of_a_row > sums
    return summed & mixed[on], torch.where(mixed[owner], raw, read)


def _ask(
    served: _Served,
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
) -> _Asked:
    """Tell every rank what this one wants of it, and hear what they want."""
    ranks, owner = len(recv_splits), _owners(recv_splits, send_index.device)
    within = _within(owner, ranks)  # a halo row's place in the list of those that its owner sends
    raws, terms = (served.place >= 0).nonzero().flatten(), served.sums.column
    counts = torch.stack([torch.bincount(owner[each], minlength=ranks) for each in (raws, terms)], 1)
    mine, theirs = counts.tolist(), _exchanged(counts, [1] * ranks, [1] * ranks, group).tolist()

    # To each rank: the rows that it sends as they are, then of each term the sum and the row.
    message = torch.cat([within[raws], served.sums.row, within[terms]])
    order = torch.cat([3 * owner[raws], 3 * owner[terms] + 1, 3 * owner[terms] + 2]).argsort(stable=True)
    sizes = [[raws + 2 * terms for raws, terms in each] for each in (mine, theirs)]
    heard = _exchanged(message[order], sizes[0], sizes[1], group)
    weight = served.sums.weight
    if weight is not None:
        sizes = [[terms for _, terms in each] for each in (mine, theirs)]
        weight = _exchanged(weight, sizes[0], sizes[1], group)
    return _heard(heard, weight, theirs, send_index, send_splits)


def _exchanged(rows: Tensor, send_splits: list[int], recv_splits: list[int], group: str) -> Tensor:
    """What the other ranks send for ``rows``."""
    received = rows.new_empty((sum(recv_splits), *rows.shape[1:]))
    exchange(received, rows.contiguous(), send_splits, recv_splits, group)
    return received


def _heard(
    heard: Tensor,
    weight: Tensor | None,
    wanted: Sequence[Sequence[int]],
    send_index: Tensor,
    send_splits: Sequence[int],
) -> _Asked:
    """The rows that each rank wants, one after the other."""
    rows, columns, weights, splits, at = [], [], [], [], 0
    parts = heard.split_with_sizes([raws + 2 * terms for raws, terms in wanted])
    lists = send_index.split_with_sizes(list(send_splits))
    terms_of_each = [terms for _, terms in wanted]
    given = [None] * len(wanted) if weight is None else weight.split_with_sizes(terms_of_each)
    for (raws, terms), part, mine, of_terms in zip(wanted, parts, lists, given, strict=True):
        raw_place, number, term_place = part.split_with_sizes([raws, terms, terms])
        sums = int(number.max()) + 1 if terms else 0
        rows += [torch.arange(at, at + raws, device=heard.device), number + at + raws]
        columns += [mine[raw_place], mine[term_place]]
        if of_terms is not None:
            weights += [of_terms.new_ones((raws, of_terms.size(1))), of_terms]
        splits.append(raws + sums)
        at += raws + sums
    found = _Edges(torch.cat(rows), torch.cat(columns), torch.cat(weights) if weights else None)
    return _Asked(found, splits)


def _product(edges: _Edges, rows: int) -> Product:
    """The terms by row, those of one row in their own order."""
    nothing = edges.row.new_zeros(PADDING)
    none = Grouped(nothing[:1].expand(rows + 1), nothing, nothing[:0])
    return _joined(none, rows, None if edges.weight is None else edges.weight[:0], None, edges)


_PIECE = 1 << 18
"""Edges, or rows, that are sorted at once: int64 copies of all would be more than what is made of them."""


def _joined(
    grouped: Grouped, rows: int, weights: Tensor | None, places: Tensor | None, more: _Edges
) -> Product:
    """The terms of the first rows, behind those of each row some more.

    Args:
        grouped, weights: edges by row. places: of each column that which it gets, -1 where its edges are left out; None
            to leave columns as they are. more: edges to the same rows, by the columns of the result.
    """
    more = more.at(more.row.argsort(stable=True))
    dtype = _index_dtype(grouped, rows, places, more)
    counts, others, found = [], [], []
    for low, high in _pieces(grouped.start, rows):
        edges = _of_groups(grouped, weights, low, high)
        if places is not None:
            edges = edges._replace(column=places[edges.column])
            edges = edges.at(edges.column >= 0)
        first, last = torch.searchsorted(more.row, torch.tensor([low, high], device=more.row.device)).tolist()
        edges = edges.and_others(more.at(slice(first, last)))
        edges = edges.at(edges.row.argsort(stable=True))
        counts.append(torch.bincount(edges.row - low, minlength=high - low))
        others.append(edges.column.to(dtype))
        found += [] if edges.weight is None else [edges.weight]
    start = torch.cat([more.row.new_zeros(1), *counts]).cumsum(0)
    other = torch.cat([*others, more.column.new_zeros(PADDING, dtype=dtype)])
    none = more.row.new_empty((0, 0)) if more.weight is None else more.weight[:0]
    return Product(start.to(dtype), other, torch.cat(found) if found else none)


def _index_dtype(grouped: Grouped, rows: int, places: Tensor | None, more: _Edges) -> torch.dtype:
    """int32 where every number fits, else int64."""
    largest = [int(c.max()) for c in (places, more.column) if c is not None and c.numel()]
    size = max(rows, grouped.edges + more.row.numel() + PADDING, *largest, 0)
    fits = grouped.edges == 0 or grouped.other.dtype == torch.int32
    return torch.int32 if fits and size < 2**31 - 1 else torch.int64


def _pieces(start: Tensor, rows: int) -> list[tuple[int, int]]:
    """Ranges of rows with about as many edges and rows as are sorted at once."""
    costs = start[: rows + 1].long() + torch.arange(rows + 1, device=start.device)
    wanted = torch.arange(0, int(costs[-1]), _PIECE, device=start.device)
    bounds = torch.unique(torch.searchsorted(costs, wanted)).tolist()
    return list(pairwise([*bounds, rows])) if rows else []
