"""Whether an op works row by row: found by its own placement rule, asked about rows of another name.

A rule treats rows as a whole: it passes them on, combines equal ones, or asks for an edit. So an op whose rule
turns rows R into rows R, and asks for nothing, does the same to any other rows in their place: to R in another
order, or to R and copies of other ranks' rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.edits import Edit
from graphshard.catalogue.table import find_rule
from graphshard.errors import UnsupportedOperation
from graphshard.ir.placement import Placed, Placement, Rows, Size


def works_row_by_row(node: fx.Node, rows: Rows) -> bool:
    """Whether each row of the result is a function of the same row of every argument over ``rows``.

    Args:
        node: a call of a placed program, whose result has ``rows`` in dim 0. rows: of interest.
    """
    rule = find_rule(node.target) if node.op == "call_function" else None
    if rule is None or not isinstance(node.meta.get("placement"), Placed):
        return False
    asked: list[Edit] = []
    placements = {n: renamed(n.meta["placement"], {rows: _OTHER}) for n in node.all_input_nodes}
    try:
        found = rule(Call(node, placements, asked))
    except UnsupportedOperation:
        return False
    return not asked and found == renamed(node.meta["placement"], {rows: _OTHER})


class _Other:
    """Rows that no rule knows."""

    def __str__(self) -> str:
        return "Other"


_OTHER: Any = _Other()


def renamed(placement: Placement, names: Mapping[Rows, Rows]) -> Placement:
    """A placement with some of its rows in the place of others."""
    if isinstance(placement, tuple):
        return tuple(renamed(p, names) for p in placement)
    if isinstance(placement, Placed):
        dims = (None if d is None else names.get(d, d) for d in placement.dims)
        return replace(placement, dims=tuple(dims))
    if isinstance(placement, Size):
        return replace(placement, rows=tuple(names.get(r, r) for r in placement.rows))
    return placement
