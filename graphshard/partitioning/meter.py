"""Seconds and memory of a stretch of work in this process."""

from __future__ import annotations

import time

from graphshard.ranks.memory import memory_of_process


class Meter:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._resident, self._high = memory_of_process("VmRSS"), memory_of_process("VmHWM")

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._start

    @property
    def peak(self) -> int | None:
        """Bytes that the process held at its peak, above those that it held at the start.

        None where that is not known: the process held as much before, or the system (not Linux) does not say.
        """
        high = memory_of_process("VmHWM")
        if high is None or self._resident is None or high == self._high:
            return None
        return high - self._resident


def resident() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not say."""
    return memory_of_process("VmRSS") or 0
