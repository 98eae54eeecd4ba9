"""The link between ranks: given in words, or measured between processes of this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from graphshard.ranks.launch import launch

_SMALL, _ROUNDS = 50, 5


@dataclass(frozen=True)
class Link:
    """How fast a rank sends.

    Attributes:
        speed: bytes a second that a rank sends while it receives as many.
        latency: seconds that an exchange takes besides.
        measured: between how many processes of this machine; None where the speed was given.
    """

    speed: float
    latency: float
    measured: int | None = None

    def __str__(self) -> str:
        where = "given" if self.measured is None else f"measured between {self.measured} processes here"
        return f"{self.speed * 8 / 1e9:.3g} Gbit/s, {self.latency * 1e6:.0f} us ({where})"


def measure_link(ranks: int, mebibytes: int = 8) -> Link:
    """The speed of gloo between as many processes of this machine, all of which send at once.

    Args:
        ranks: how many. mebibytes: that each sends to each other one.
    """
    if ranks == 1:
        return Link(float("inf"), 0.0, 1)
    found = launch(_exchanges, ranks, (mebibytes,))
    return Link(min(speed for speed, _ in found), max(latency for _, latency in found), ranks)


def _exchanges(mebibytes: int) -> tuple[float, float]:
    """One rank's part of it: bytes a second that it sends, and seconds of an exchange of a few bytes."""
    size = dist.get_world_size()
    rows = torch.zeros(size, mebibytes << 18)
    few = torch.zeros(size, 1)
    best = min(_timed(rows, 1) for _ in range(_ROUNDS))
    latency = min(_timed(few, _SMALL) for _ in range(_ROUNDS)) / _SMALL
    return rows[0].numel() * 4 * (size - 1) / best, latency


def _timed(rows: torch.Tensor, times: int) -> float:
    got = torch.empty_like(rows)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(times):
        dist.all_to_all_single(got, rows)
    return time.perf_counter() - start
