"""Which op a node calls: asked of the op itself, never of a part of its name."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

Packet = torch._ops.OpOverloadPacket[..., Any]


def packet_of(node: Any) -> Packet | None:
    """The op that a node calls, whatever its overload; None for a Python function, and for what calls nothing."""
    target = node.target if isinstance(node, fx.Node) else None
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else None


def calls(node: Any, *packets: Packet) -> bool:
    """Whether a node calls one of these ops, in any overload: ``calls(node, torch.ops.aten.eq)``."""
    return packet_of(node) in packets
