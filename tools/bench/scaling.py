"""Weak and strong scaling by simulation: partitions of a real size, counted; the epoch's time, predicted.

The prediction is that of one epoch of the benchmark's GraphSAGE: what the slowest part has to compute, at the speeds
of kernels and dense products measured here on one thread, and what the busiest part has to send, at the speed of a
link. A link carries a rank's rows one message after the other; nothing overlaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.ops.aggregation import edge_structure, weighted_sum
from graphshard.partitioning.metis import metis
from graphshard.planning.link import measure_link

HIDDEN, CLASSES = 128, 32
LINKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}
"""Bytes a second in each direction, at full duplex."""
LATENCY = 50e-6
"""Seconds for each message on such a link."""


@dataclass(frozen=True)
class Speeds:
    """Measured on one thread of this machine.

    Attributes:
        edge: seconds to sum one row of ``CLASSES`` numbers, forward and backward.
        row: seconds of the dense products of one node, forward and backward.
        loopback: bytes a second of ``all_to_all_single`` between two processes of this machine, over gloo.
    """

    edge: float
    row: float
    loopback: float


@dataclass(frozen=True)
class Cut:
    """What a partition of ``edges`` edges among ``nodes`` nodes is like.

    Attributes:
        parts: k.
        halo: halo rows of all parts together.
        busiest: halo rows that the part with most of them receives, or sends.
        largest_edges, largest_nodes: of the parts with most edges, most owned nodes.
        partners: ranks that the part with most of them exchanges rows with.
        seconds: that METIS took.
    """

    nodes: int
    edges: int
    parts: int
    halo: int
    busiest: int
    largest_edges: int
    largest_nodes: int
    partners: int
    seconds: float

    @property
    def balance(self) -> float:
        """Edges of the largest part over those of an average one."""
        return self.largest_edges * self.parts / self.edges

    @property
    def sent_bytes(self) -> int:
        """By the busiest rank in an epoch: rows of ``CLASSES`` float32 forward, their gradients back."""
        return 2 * self.busiest * CLASSES * 4

    def predicted(self, speeds: Speeds, link: float) -> float:
        """Seconds of an epoch; ``link`` in bytes a second."""
        compute = self.largest_edges * speeds.edge + self.largest_nodes * speeds.row
        if self.parts == 1:
            return compute
        weights = 2 * (HIDDEN + CLASSES) * HIDDEN * 4  # gradients, summed by a ring
        messages = 2 * self.partners + 2 * (self.parts - 1)
        return compute + (self.sent_bytes + 2 * weights) / link + messages * LATENCY


def cut(edge_index: Tensor, nodes: int, parts: int, seed: int = 0) -> Cut:
    """Partition by METIS as graphshard does, and count."""
    start = time.perf_counter()
    owner = metis(edge_index, nodes, parts, seed)
    seconds = time.perf_counter() - start
    source, destination = edge_index
    here, there = owner[destination], owner[source]
    copies = torch.unique((here * nodes + source)[here != there])
    reader, holder = copies // nodes, owner[copies % nodes]
    received = torch.bincount(reader, minlength=parts)
    sent = torch.bincount(holder, minlength=parts)
    pairs = torch.unique(reader * parts + holder)
    return Cut(
        nodes=nodes,
        edges=source.numel(),
        parts=parts,
        halo=copies.numel(),
        busiest=int(torch.maximum(received, sent).max()),
        largest_edges=int(torch.bincount(here, minlength=parts).max()),
        largest_nodes=int(torch.bincount(owner, minlength=parts).max()),
        partners=int(torch.bincount(pairs // parts, minlength=1).max()),
        seconds=seconds,
    )


def measure_speeds(edge_index: Tensor, nodes: int) -> Speeds:
    """The speeds of this machine, with the rows and edges of one part of the graph."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        structure = edge_structure(edge_index[1], edge_index[0], nodes, nodes)
        narrow = torch.randn(nodes, CLASSES).requires_grad_()
        edge = _best(lambda: weighted_sum(narrow, None, structure).sum()) / edge_index.size(1)
        wide = torch.randn(nodes, HIDDEN).requires_grad_()
        first = [torch.randn(HIDDEN, HIDDEN, requires_grad=True) for _ in range(2)]
        second = [torch.randn(HIDDEN, CLASSES, requires_grad=True) for _ in range(2)]

        def dense() -> Tensor:
            hidden = ((wide @ first[0]) + (wide @ first[1])).relu()
            return (hidden @ second[0]).sum() + (hidden @ second[1]).sum()

        row = _best(dense) / nodes
    finally:
        torch.set_num_threads(kept)
    return Speeds(edge, row, measure_link(2, mebibytes=32).speed)


def _best(step: Callable[[], Tensor]) -> float:
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        step().backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - start)
    return best


def table(cuts: Sequence[Cut], speeds: Speeds) -> list[dict[str, float]]:
    """One entry for each cut, with every prediction in seconds."""
    return [
        {
            **vars(one),
            "balance": one.balance,
            "sent_bytes": one.sent_bytes,
            **{f"predicted, {name}": one.predicted(speeds, link) for name, link in LINKS.items()},
        }
        for one in cuts
    ]
