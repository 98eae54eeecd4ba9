"""Keep freed memory in the process: the large tensors of every step then take the same pages again.

glibc gives each large tensor fresh pages of the operating system and returns them when it is freed. Filling in
new pages costs more than most arithmetic on them: a training step that allocates the same sizes over and over is
20 to 30 % faster when the process keeps them (``tools/bench``).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MOST = (1 << 31) - 1

__all__ = ["keep_memory", "return_free_memory"]


def keep_memory() -> bool:
    """Let this process keep what it frees, for as long as it lives; ranks that ``graphshard train`` starts do.

    For a training script of your own: call it once on each rank, before the first step.

    Returns:
        Whether the C library took it: glibc's ``mallopt`` does, on Linux; elsewhere nothing is changed.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))


def return_free_memory() -> bool:
    """Give the operating system what this process has freed and kept: after something large that happens once.

    Returns:
        Whether the C library can: glibc's ``malloc_trim`` does, on Linux; elsewhere nothing is changed.
    """
    trim = _of_glibc("malloc_trim")
    if trim is None:
        return False
    trim(0)
    return True


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
