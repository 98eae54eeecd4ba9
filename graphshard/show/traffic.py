"""What a program sends: how many exchanges, and their bytes in one epoch (one forward and one backward).

A halo exchange sends h rows to a rank, so its bytes are h times a row's; all ranks together receive the total
number of halo nodes. Of a sum that is preaggregated they receive no more, and as many rows as vertex covers have
nodes where ranks have decided. An all-reduce is counted as a ring sends it, 2 (k - 1) / k of the tensor on each of k
ranks, as ``graphshard.count_bytes`` does. A sync sends again in backward only where a gradient flows: its value is
computed from a trainable parameter by differentiable steps, and so is an output from its value.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphshard.catalogue.record import Op
from graphshard.catalogue.table import record_of
from graphshard.infer.constants import ONCE
from graphshard.infer.gradient_flow import gradient_flow
from graphshard.ir.placement import Plan
from graphshard.ir.program import Program
from graphshard.ops.preaggregation import preaggregation
from graphshard.show.names import Key, Names, key_of, plural

HALO = ("halo_sync", "halo_reduce")
REDUCE = ("all_reduce", "stack_ranks", "global_count")
GRADIENT = "gradient"


@dataclass(frozen=True)
class Exchange:
    """One communication of a program.

    Attributes:
        key: the node that communicates.
        name: its stable name.
        kind: "halo_sync", "halo_reduce", "all_reduce", "stack_ranks" (an all-reduce of as many values as there
            are ranks; counted as one where that is not known), "global_count", or "gradient" of a parameter.
        unit: bytes of one row of a halo exchange in forward; of the whole tensor for any other kind. None where a
            size besides the rows is not known before it runs, such as the number of graphs in a batch.
        unit_back: the same in backward.
        rows: halo nodes of all parts together that a halo exchange sends; None where there is no data.
        forward: whether it sends in forward.
        backward: whether it sends in backward.
        tensors: how many gradients go together.
        once: it sends in the first step of a graph only.
        wire: what rows are rounded to while they travel; None where they are sent as they are.
        at_most: whether fewer rows may be sent: a preaggregation decides when it runs.
    """

    key: Key
    name: str
    kind: str
    unit: int | None
    forward: bool
    backward: bool
    rows: int | None = None
    tensors: int = 1
    unit_back: int | None = None
    once: bool = False
    wire: torch.dtype | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Traffic:
    """The communication of one program in one epoch.

    Attributes:
        exchanges: in program order.
        halo_rows: halo nodes of all parts together, of every plan; None where there is no data.
        parts: number of parts; None where there is no data.
    """

    exchanges: tuple[Exchange, ...]
    halo_rows: int | None = None
    parts: int | None = None

    def count(self, kind: str) -> int:
        """How many values are exchanged in a way, in every step."""
        return sum(e.tensors for e in self.exchanges if e.kind == kind and not e.once)

    def units(self, kinds: Sequence[str], direction: str) -> list[int | None]:
        """The unit of each exchange of these kinds that sends in ``"forward"`` or ``"backward"``."""
        sending = [e for e in self.exchanges if e.kind in kinds and getattr(e, direction) and not e.once]
        return [_unit(e, direction) for e in sending]

    def _halo(self, direction: str) -> list[Exchange]:
        return [e for e in self.exchanges if e.kind in HALO and getattr(e, direction) and not e.once]

    def halo_bytes(self, direction: str) -> int | None:
        """What all ranks together send in halo exchanges; None without data, or where a unit is not known."""
        if self.halo_rows is None:
            return None
        return _total(_sent(e, direction) for e in self._halo(direction))

    def reduce_bytes(self, direction: str) -> int | None:
        """What all ranks together send in all-reduces, gradients included; None as for :meth:`halo_bytes`."""
        return None if self.parts is None else _total(self._reduced(direction))

    def _reduced(self, direction: str) -> list[int | None]:
        """The bytes of each all-reduce: of all ranks together or, without data, of the tensor."""
        return list(map(self._ring, self.units((*REDUCE, "gradient"), direction)))

    def _ring(self, size: int | None) -> int | None:
        if size is None or self.parts is None:
            return size
        return self.parts * (2 * (self.parts - 1) * size // self.parts)

    def note(self, exchange: Exchange) -> str:
        """``h x 64 B forward and back``, or with data ``57 rows, 3,648 B forward and back``."""
        if exchange.kind == "gradient":
            return f"{plural(exchange.tensors, 'gradient')}, {_bytes([self._ring(exchange.unit)])} back"
        sent = "forward and back" if exchange.backward else "forward only"
        if exchange.once:
            sent = "once for each graph"
        if exchange.wire is not None:
            sent += f" as {str(exchange.wire).removeprefix('torch.')}: inexact"
        if exchange.kind not in HALO:
            return f"{_bytes([self._ring(exchange.unit)])} {sent}"
        limit = "at most " if exchange.at_most else ""
        each = f"{limit}h x" if exchange.rows is None else f"{limit}{plural(exchange.rows, 'row')},"
        size = _unit if exchange.rows is None else _sent
        forward, back = (_bytes([size(exchange, direction)]) for direction in ("forward", "backward"))
        if exchange.backward and forward != back:
            return f"{each} {forward} forward, {back} back"
        return f"{each} {forward} {sent}"

    def notes(self) -> dict[Key, str]:
        """The note of each exchange that has a line of its own; a single gradient has none."""
        return {e.key: self.note(e) for e in self.exchanges if e.kind != "gradient" or e.tensors > 1}

    def lines(self) -> list[str]:
        """The summary, a few lines of text."""
        reduces = sum(map(self.count, REDUCE))
        counts = (
            (self.count("halo_sync"), "halo sync"),
            (self.count("halo_reduce"), "halo reduce"),
            (reduces, "all-reduce"),
            (self.count("gradient"), "parameter gradient"),
        )
        found = [", ".join(plural(number, word) for number, word in counts) + " summed"]
        found += [self._direction("forward"), self._direction("backward")]
        if once := [e for e in self.exchanges if e.once and e.kind in HALO]:
            sizes = self._halo_text(once, "forward")
            found.append(f"once for each graph: {plural(len(once), 'halo exchange')}: {sizes}")
        if self.parts is not None:
            found.append(f"bytes of all {self.parts} ranks together, in one epoch")
        else:
            found.append(
                "bytes of one rank with h halo nodes, in one epoch; a ring sends an all-reduced byte"
            )
            found[-1] += " 2 (k - 1) / k times on k ranks"
        return found

    def _direction(self, direction: str) -> str:
        exchanges = self._halo(direction)
        rows = "" if self.halo_rows is None else f"{plural(sum(e.rows or 0 for e in exchanges), 'row')}, "
        if any(e.at_most for e in exchanges):
            rows = f"at most {rows}"
        halo, reduces = rows + self._halo_text(exchanges, direction), _bytes(self._reduced(direction))
        return f"{direction:<8} {plural(len(exchanges), 'halo exchange')}: {halo}; all-reduces: {reduces}"

    def _halo_text(self, exchanges: Sequence[Exchange], direction: str) -> str:
        """``h x 56 B``, or with data the bytes of all ranks."""
        if self.halo_rows is None:
            return f"h x {_bytes([_unit(e, direction) for e in exchanges])}"
        return _bytes([_sent(e, direction) for e in exchanges])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        directions = ("forward", "backward")
        return {
            "halo_syncs": self.count("halo_sync"),
            "halo_reduces": self.count("halo_reduce"),
            "all_reduces": sum(map(self.count, REDUCE)),
            "summed_gradients": self.count("gradient"),
            "halo_rows": self.halo_rows,
            "num_parts": self.parts,
            "row_bytes": {d: _total(self.units(HALO, d)) for d in directions},
            "halo_bytes": {d: self.halo_bytes(d) for d in directions},
            "reduce_bytes": {d: self.reduce_bytes(d) for d in directions},
        }


def _unit(exchange: Exchange, direction: str) -> int | None:
    """The bytes of one row of a halo exchange, of the whole tensor for any other kind."""
    return exchange.unit if direction == "forward" or exchange.kind not in HALO else exchange.unit_back


def _sent(exchange: Exchange, direction: str) -> int | None:
    """The bytes of all rows that a halo exchange sends in one direction."""
    unit = _unit(exchange, direction)
    return None if unit is None else unit * (exchange.rows or 0)


def _total(sizes: Iterable[int | None]) -> int | None:
    """The sum; None where one is not known."""
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total


def _bytes(sizes: Sequence[int | None]) -> str:
    """``64 B``; ``64 B + ?`` where some of the bytes are not known before it runs, ``? B`` where none is."""
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return f"{sum(known):,} B"
    return f"{sum(known):,} B + ?" if known else "? B"


def traffic_of(
    program: Program,
    *,
    names: Names | None = None,
    trainable: Collection[str] | None = None,
    backward: bool = True,
    halo: Mapping[tuple[str, str], Sequence[int]] | None = None,
    sent: Mapping[str, int] | None = None,
) -> Traffic:
    """Find what a program sends.

    Args:
        program: a placed one, after whichever pass.
        names: of the stages it is shown with.
        trainable: the state_dict keys of parameters with ``requires_grad``; all by default.
        backward: whether a backward follows the forward.
        halo: ``(node set, plan)`` -> the number of halo nodes of each part, where the data is known.
        sent: name of a preaggregation -> the rows that all parts send by it, where that is known.
    """
    words = names or Names([program])
    flow = gradient_flow(program, trainable) if backward else frozenset()
    found: list[Exchange] = []
    for node in program.graph.nodes:
        record = record_of(node)
        if record is None or record.traffic is None:
            continue
        if record.traffic.kind == GRADIENT:
            found.extend(_gradients(node, record, words, flow))
        else:
            found.extend(_exchanges(node, record, words, flow, halo, sent or {}))
    if halo is None:
        return Traffic(tuple(found))
    parts = next(iter(halo.values()))
    return Traffic(tuple(found), sum(map(sum, halo.values())), len(parts))


def _gradients(node: fx.Node, record: Op, words: Names, flow: frozenset[fx.Node]) -> Iterator[Exchange]:
    """One all-reduce, in backward, of the gradients that flow through a mark or a bucket."""
    marks = list(node.users) if record.items else [node]
    units = [_bytes_of(mark) for mark in marks if mark in flow]
    if units:
        yield Exchange(
            key_of(node), words.text(node), GRADIENT, _total(units), False, True, tensors=len(units)
        )


def _exchanges(
    node: fx.Node,
    record: Op,
    words: Names,
    flow: frozenset[fx.Node],
    halo: Mapping[tuple[str, str], Sequence[int]] | None,
    fewer: Mapping[str, int],
) -> Iterator[Exchange]:
    """An exchange of each value that a call sends."""
    assert record.traffic is not None
    kind, once = record.traffic.kind, bool(node.meta.get(ONCE))
    wire: Any = node.kwargs.get("wire")
    rows = _rows(node, halo) if kind in HALO else None
    decides = [n.name for n in node.all_input_nodes if n.target is preaggregation]
    at_most = any(name not in fewer for name in decides)
    if decides and not at_most:
        rows = sum(fewer[name] for name in decides)
    ranks = len(next(iter(halo.values()))) if halo is not None and kind == "stack_ranks" else 1
    sent: Any = node.args[0] if record.items else [node.args[0]]
    for number, value in enumerate(sent):
        # The value goes by the name of what is taken of the result.
        items = (user for user in node.users if record.items and user.args[1] == number)
        by = next(items, node)
        like = record.traffic.rows_like
        unit, unit_back = (
            _total([_bytes_of(one, of_row=kind in HALO, wire=wire)] * ranks)
            for one in (like(node) if like is not None else (value, value))
        )
        back = by in flow and value in flow
        yield Exchange(
            key_of(by),
            words.text(by),
            kind,
            unit,
            True,
            back,
            rows,
            unit_back=unit_back,
            once=once,
            wire=wire,
            at_most=at_most,
        )


def _rows(node: fx.Node, halo: Mapping[tuple[str, str], Sequence[int]] | None) -> int | None:
    """How many halo rows all parts have of the plan that an exchange follows."""
    plan = next(p for n in node.all_input_nodes if isinstance(p := n.meta["placement"], Plan))
    return None if halo is None else sum(halo[plan.halo.nodes, plan.halo.plan])


def _bytes_of(node: fx.Node, *, of_row: bool = False, wire: Any = None) -> int | None:
    """The bytes of a value, or of one row of it; a number is an int64. None where a size is not known."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return int(torch.int64.itemsize)
    sizes = value.shape[1:] if of_row else value.shape
    if not all(isinstance(size, int) for size in sizes):
        return None
    return int(math.prod(sizes) * (wire or value.dtype).itemsize)
