"""The compiled loops of ``loops.py``, where numba works."""

from __future__ import annotations

from typing import Any

from graphshard.errors import PartitionError
from graphshard.kernels.interface import numba_chosen


def loops() -> Any:
    """The module of compiled loops; None where numba is not installed, does not work, or is not wanted."""
    if not numba_chosen():
        return None
    from graphshard.partitioning import loops as compiled

    return compiled


def loops_for(method: str) -> Any:
    """The module of compiled loops, for a method that has no other way.

    Raises:
        PartitionError: numba is not there.
    """
    if (compiled := loops()) is None:
        raise PartitionError(
            f"the partition method {method!r} needs numba: pip install 'graphshard[fast]', or use method='metis'"
        )
    return compiled
