"""Simulated ranks that take turns, so that each has random generators of its own.

::

    rank 0   runs ... meets   (waits)             runs ...
    rank 1            (waits) runs ... meets               (waits)
                      ^ generators are put aside and taken up here

Python, NumPy and PyTorch have one generator for a whole process. Ranks with a process each draw the same numbers from
the same seed; threads would draw each other's. Here one rank runs at a time, and they change where they meet anyway.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class RandomState:
    """Where the generators of Python, NumPy (if it is imported) and PyTorch's CPU stand."""

    python: Any
    numpy: Any
    torch: torch.Tensor

    @classmethod
    def now(cls) -> RandomState:
        numpy = sys.modules.get("numpy")
        return cls(random.getstate(), numpy and numpy.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        """Continue from here."""
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


class Turns:
    """Whose turn it is. All ranks begin with the generators as they stand when this object is made."""

    def __init__(self) -> None:
        self._lock, self._first = threading.Lock(), RandomState.now()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A rank's whole run: it waits for its first turn, and leaves the last."""
        with self._lock:
            self._first.restore()
            yield

    @contextmanager
    def left(self) -> Iterator[None]:
        """Let others run while this rank waits for them."""
        state = RandomState.now()
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()
            state.restore()

    def end(self) -> None:
        """Set the generators back to where they stood before the run."""
        self._first.restore()
