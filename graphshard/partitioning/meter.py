"""Seconds and memory of a stretch of work in this process."""

from __future__ import annotations

import re
import time
from pathlib import Path


class Meter:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._resident, self._high = _resident("VmRSS"), _resident("VmHWM")

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._start

    @property
    def peak(self) -> int | None:
        """Bytes that the process held at its peak, above those that it held at the start.

        None where that is not known: the process held as much before, or the system (not Linux) does not say.
        """
        high = _resident("VmHWM")
        if high is None or self._resident is None or high == self._high:
            return None
        return high - self._resident


def resident() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not say."""
    return _resident("VmRSS") or 0


def _resident(field: str) -> int | None:
    """Bytes of this process that are in memory: ``VmRSS`` now, ``VmHWM`` at the peak of its life."""
    try:
        found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
