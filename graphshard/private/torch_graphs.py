"""Nodes of ``torch.fx``."""

from __future__ import annotations

from torch import fx

__all__ = ["rename"]


def rename(node: fx.Node, wanted: str) -> None:
    """Give a node another name, or the first free one that begins so. Relies on ``torch.fx.Node._rename``."""
    node._rename(wanted)
