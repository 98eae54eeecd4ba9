"""Why a pass made a node: words, and the values that they speak of, for ``graphshard diff --why``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

_REASON = "reason"


@dataclass(frozen=True)
class Reason:
    """A sentence in parts; a node stands for its name, which is known only when all passes have run."""

    parts: tuple[str | fx.Node, ...]


def because(node: fx.Node, *parts: str | fx.Node) -> None:
    """Note why ``node`` is there: ``because(sync, user, " reads rows of ", value)``."""
    node.meta[_REASON] = Reason(parts)


def reason_of(node: fx.Node) -> Reason | None:
    """What was noted; None where the pass says it all."""
    found: Reason | None = node.meta.get(_REASON)
    return found
