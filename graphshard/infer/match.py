"""Patterns of calls that a reader can see, and what a call has in their places.

::

    SOFTMAX = call(aten.div, call(aten.exp, call(aten.sub, "scores", "top"), name="power"), "total")

    match(SOFTMAX, node)   {"scores": ..., "top": ..., "power": ..., "total": ...}, or None

A word stands for whatever is there. A call has the arguments that its pattern has, in their order, and no other;
``optional`` ones may be missing. Models: tinygrad's ``UPat``, xDSL's ``op_type_rewrite_pattern``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from graphshard.ir.calls import packet_of


@dataclass(frozen=True)
class CallPattern:
    """A call of one of these ops, in any overload; see :func:`call`."""

    ops: tuple[Any, ...]
    args: tuple[Pattern, ...]
    optional: tuple[str, ...]
    name: str | None
    commutes: bool


@dataclass(frozen=True)
class Either:
    """What fits one of these, tried in order."""

    patterns: tuple[Pattern, ...]


Pattern = CallPattern | Either | str
Found = dict[str, Any]


def call(
    ops: Any, *args: Pattern, optional: tuple[str, ...] = (), name: str | None = None, commutes: bool = False
) -> CallPattern:
    """The pattern of a call.

    Args:
        ops: the op, or a tuple of ops of which any will do: packets (``torch.ops.aten.add``) or targets.
        args: patterns of its positional arguments. optional: words for further ones, which may be missing.
        name: a word for the call itself. commutes: its two arguments may stand the other way round.
    """
    return CallPattern(ops if isinstance(ops, tuple) else (ops,), args, optional, name, commutes)


def either(*patterns: Pattern) -> Either:
    """The pattern of what fits one of these."""
    return Either(patterns)


def match(pattern: Pattern, value: Any) -> Found | None:
    """What stands in the places of a pattern: the first way in which it fits; None where it does not."""
    return next(matches(pattern, value), None)


def matches(pattern: Pattern, value: Any) -> Iterator[Found]:
    """Every way in which a pattern fits: a product that commutes may fit twice."""
    if isinstance(pattern, str):
        yield {pattern: value}
    elif isinstance(pattern, Either):
        for one in pattern.patterns:
            yield from matches(one, value)
    elif isinstance(value, fx.Node) and _calls(value, pattern):
        own = {} if pattern.name is None else {pattern.name: value}
        for args in (value.args, value.args[::-1]) if pattern.commutes else (value.args,):
            given = len(pattern.args)
            rest = dict(zip(pattern.optional, args[given:], strict=False))
            for found in _all(pattern.args, args[:given]):
                yield own | dict.fromkeys(pattern.optional) | rest | found


def _calls(node: fx.Node, pattern: CallPattern) -> bool:
    known = packet_of(node) in pattern.ops or node.target in pattern.ops
    least, most = len(pattern.args), len(pattern.args) + len(pattern.optional)
    return known and not node.kwargs and least <= len(node.args) <= most


def _all(patterns: tuple[Pattern, ...], values: tuple[Any, ...]) -> Iterator[Found]:
    """Every way in which all of these fit at once."""
    if not patterns:
        yield {}
        return
    for first in matches(patterns[0], values[0]):
        for rest in _all(patterns[1:], values[1:]):
            yield first | rest
