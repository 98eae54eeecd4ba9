"""Which op a node calls: asked of the op itself, never of a part of its name."""

from __future__ import annotations

from typing import Any

from torch import fx

from graphshard.private.torch_ops import OpOverload, OpOverloadPacket

Packet = OpOverloadPacket[..., Any]


def packet_of(node: Any) -> Packet | None:
    """The op that a node calls, whatever its overload; None for a Python function, and for what calls nothing."""
    target = node.target if isinstance(node, fx.Node) else None
    return target.overloadpacket if isinstance(target, OpOverload) else None


def calls(node: Any, *packets: Packet) -> bool:
    """Whether a node calls one of these ops, in any overload: ``calls(node, torch.ops.aten.eq)``."""
    return packet_of(node) in packets
