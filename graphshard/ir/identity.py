"""Which value of one stage is which of another: a number that a node keeps through all copies of its program.

Names are no identity: where a pass takes ``getitem`` out, a later one may put another ``getitem`` in. Nor is
``node.meta`` by itself, for a node that a pass makes in the likeness of another is a value of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

_IDENTITY = "identity"


@dataclass(frozen=True, eq=False)
class _Identity:
    """A number, and the only node that it is of: it means nothing in the meta of another."""

    number: int
    node: fx.Node


def number_nodes(graph: fx.Graph, numbers: Iterator[int]) -> None:
    """Give the next number to every node that has none."""
    for node in graph.nodes:
        if _number(node) is None:
            node.meta[_IDENTITY] = _Identity(next(numbers), node)


def keep_identity(original: fx.Node, copied: fx.Node) -> None:
    """The copy of a node, in a copy of its program, is the same value."""
    copied.meta.pop(_IDENTITY, None)
    if (number := _number(original)) is not None:
        copied.meta[_IDENTITY] = _Identity(number, copied)


def identity_of(node: fx.Node) -> int | str:
    """The node's number or, in a program that no pipeline ran, its name."""
    number = _number(node)
    return node.name if number is None else number


def _number(node: fx.Node) -> int | None:
    found = node.meta.get(_IDENTITY)
    return found.number if found is not None and found.node is node else None
