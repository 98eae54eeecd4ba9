"""Keep freed memory in the process: the large tensors of every step then take the same pages again.

glibc gives each large tensor fresh pages of the operating system and returns them when it is freed. Filling in
new pages costs more than most arithmetic on them: a training step that allocates the same sizes over and over is
20 to 30 % faster when the process keeps them (``tools/bench``).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MOST = (1 << 31) - 1

__all__ = ["keep_memory"]


def keep_memory() -> bool:
    """Let this process keep what it frees, for as long as it lives; ranks that ``graphshard train`` starts do.

    For a training script of your own: call it once on each rank, before the first step.

    Returns:
        Whether the C library took it: glibc's ``mallopt`` does, on Linux; elsewhere nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))
