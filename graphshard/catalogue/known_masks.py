"""Masks whose outcome is known for whole segments: ``row == col`` after self loops were removed and added.

::

    row = cat([ei[0][ne], arange(n)])        ne = ei[0] != ei[1]
    col = cat([ei[1][ne], arange(n)])        row == col keeps nothing of the first segment, all of the second

So the rows that it keeps are ``Owned``, in the order of the nodes, and may be combined with node rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphshard.ir.calls import calls
from graphshard.ir.placement import Kept, Rows, join, segments

aten = torch.ops.aten


@dataclass(frozen=True)
class _Numbers:
    """One segment of a 1-D index: the value that it was taken from, a row of it, and the masks on the way."""

    source: fx.Node
    row: int | None
    masks: tuple[fx.Node, ...] = ()


def kept_rows(rows: Rows, mask: fx.Node) -> Rows:
    """What ``mask`` keeps of ``rows``: whole segments of it where that is known, ``Kept`` elsewhere."""
    parts, known = segments(rows), _outcomes(mask)
    if known is not None and len(known) == len(parts) and None not in known:
        whole = [part for part, keeps in zip(parts, known, strict=True) if keeps]
        if whole:
            return join(whole)
    return Kept(rows, mask.name)


def _outcomes(mask: fx.Node) -> list[bool | None] | None:
    """For each segment whether the mask keeps all of it (True), nothing (False), or some (None)."""
    equal = calls(mask, aten.eq)
    if not equal and not calls(mask, aten.ne):
        return None
    left, right = mask.args[:2]
    if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)):
        return None
    if left.meta["val"].is_floating_point():  # NaN is not even equal to itself
        return None
    pairs = list(zip(_segments(left), _segments(right), strict=False))
    return [None if (same := _same(a, b)) is None else same == equal for a, b in pairs]


def _same(a: _Numbers, b: _Numbers) -> bool | None:
    """Whether two segments hold equal numbers everywhere, or nowhere; None where that is not known."""
    if a == b:
        return True
    if a.masks != b.masks:
        return None
    bare = {_Numbers(a.source, a.row), _Numbers(b.source, b.row)}
    for mask in a.masks:
        if calls(mask, aten.ne) and {n for side in mask.args[:2] for n in _segments(side)} == bare:
            return False
    return None


def _segments(value: Any) -> list[_Numbers]:
    """The segments of a 1-D value."""
    if not isinstance(value, fx.Node):
        return []
    args = value.args
    if calls(value, aten.cat):
        return [part for piece in args[0] for part in _segments(piece)]  # type: ignore[union-attr]
    if calls(value, aten.select) and args[1] == 0 and isinstance(args[2], int):
        return _segments_of_row(args[0], args[2])
    if calls(value, aten.index) and len(args[1]) == 1:  # type: ignore[arg-type]
        return _masked(_segments(args[0]), args[1][0])  # type: ignore[index]
    return [_Numbers(value, None)]


def _segments_of_row(table: Any, row: int) -> list[_Numbers]:
    """The segments of one row of an ``edge_index``."""
    args = table.args
    if calls(table, aten.cat) and len(args) > 1 and args[1] in (1, -1):
        return [part for piece in args[0] for part in _segments_of_row(piece, row)]
    if calls(table, aten.stack) and (len(args) == 1 or args[1] == 0):
        return _segments(args[0][row])
    if calls(table, aten.index) and len(args[1]) == 2 and args[1][0] is None:
        return _masked(_segments_of_row(args[0], row), args[1][1])
    if calls(table, aten.repeat) and _is_row(args[0]) and list(args[1][1:]) == [1]:
        return _segments(args[0].args[0])
    return [_Numbers(table, row)]


def _is_row(value: Any) -> bool:
    """Whether a value is a 1-D one as a row: ``v.view(1, -1)``, ``v.unsqueeze(0)``."""
    viewed = calls(value, aten.view) and list(value.args[1]) == [1, -1]
    return viewed or (calls(value, aten.unsqueeze) and value.args[1] == 0)


def _masked(parts: list[_Numbers], by: Any) -> list[_Numbers]:
    """The same segments after a mask, if there is but one (a mask over several has no outcome for each)."""
    if len(parts) != 1 or not isinstance(by, fx.Node):
        return []
    return [_Numbers(parts[0].source, parts[0].row, (*parts[0].masks, by))]
