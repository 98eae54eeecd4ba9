"""What one more halo row costs in a step: to be sent, or to be computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphshard.catalogue.record import Trait
from graphshard.catalogue.table import has_trait
from graphshard.ir.placement import Placed
from graphshard.passes.faster.patterns import rows_of


@dataclass(frozen=True)
class Speeds:
    """Speeds of the machines and of the link between them; only their proportions matter.

    Attributes:
        link: bytes a second that a rank sends, 1 GB/s by default: 10 Gb/s Ethernet, or gloo between processes.
        memory: bytes a second that a rank reads or writes.
        arithmetic: floating-point operations a second in dense products.
        message: seconds that an exchange costs besides its bytes, for each halo row.
    """

    link: float = 1e9
    memory: float = 1e10
    arithmetic: float = 1e11
    message: float = 1e-7

    @property
    def byte(self) -> float:
        """Seconds to send a byte, and to pack and unpack it: each reads and writes it."""
        return 1 / self.link + 4 / self.memory

    @property
    def terms_of_a_row(self) -> float:
        """How many more terms of sums, each read and added, take as long as a row that is sent."""
        return self.byte / (2 / self.memory)


_ONCE = 1e-3
"""The weight of a cost that is paid once for each graph, beside one that is paid in every step."""


@dataclass(frozen=True)
class Costs:
    """Seconds a step and halo row.

    Attributes:
        constants: values that are constants of the graph. flowing: those with a gradient. speeds: of the machines.
    """

    constants: frozenset[fx.Node]
    flowing: frozenset[fx.Node]
    speeds: Speeds

    def sync(self, value: fx.Node) -> float:
        """To send a row of a value, and its gradient back."""
        directions = 1 + (value in self.flowing)
        size = row_bytes(value)
        each = size * self.speeds.byte + self.speeds.message
        return self._often(value) * directions * each

    def work(self, node: fx.Node) -> float:
        """To compute a row of a value from rows that are there, forward and backward."""
        inputs = [n for n in node.all_input_nodes if rows_of(n) is not None]
        moved = row_bytes(node) + sum(map(row_bytes, inputs))
        cost = moved * (1 + (node in self.flowing)) / self.speeds.memory
        if has_trait(node, Trait.PRODUCT):
            weights = [n for n in node.all_input_nodes if rows_of(n) is None]
            passes = 1 + any(n in self.flowing for n in inputs) + any(n in self.flowing for n in weights)
            inner = max((math.prod(_sizes(n)) for n in weights), default=0)
            cost += 2 * inner * passes / self.speeds.arithmetic
        return self._often(node) * cost

    def _often(self, node: fx.Node) -> float:
        return _ONCE if node in self.constants else 1.0


def row_bytes(node: fx.Node) -> int:
    """Bytes of one row of a value."""
    value, placed = node.meta.get("val"), node.meta.get("placement")
    if not isinstance(value, torch.Tensor) or not isinstance(placed, Placed) or not value.dim():
        return 0
    sizes = [s if isinstance(s, int) else 1 for s in value.shape[1:]]
    return int(math.prod(sizes) * value.dtype.itemsize)


def _sizes(node: fx.Node) -> list[int]:
    value: Any = node.meta.get("val")
    return [s for s in value.shape if isinstance(s, int)] if isinstance(value, torch.Tensor) else []
