"""What torch.export has noted about the symbolic sizes of a trace: ``torch.SymInt.node`` and its ``ShapeEnv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["NotedSizes", "expression", "is_same_size"]


def expression(size: Any) -> Any:
    """What a symbolic size is an expression of: equal where two are the same size; an int as it is.

    Relies on ``SymInt.node.expr``, an expression of sympy.
    """
    return size.node.expr if isinstance(size, torch.SymInt) else size


def is_same_size(size: Any, other: Any) -> bool:
    """Whether two symbolic sizes are one and the same expression, which notes no condition as ``==`` does.

    Relies on what :func:`expression` does.
    """
    if not (isinstance(size, torch.SymInt) and isinstance(other, torch.SymInt)):
        return False
    return bool(expression(size) == expression(other))


class NotedSizes:
    """The sizes of a trace that are symbols when this is made, and what is noted of them from then on.

    Relies on ``SymInt.node.shape_env``, its ``replace(expr)``, which gives a number for a symbol that has become a
    constant, and its list ``guards``, in which each condition is an ``expr`` with ``free_symbols``.

    Args:
        sizes: those that are plain numbers are left out.
    """

    def __init__(self, sizes: Sequence[Any]) -> None:
        self._sizes = [size for size in sizes if isinstance(size, torch.SymInt)]
        environment: Any = self._sizes[0].node.shape_env if self._sizes else None
        self._environment = environment
        self._known = len(environment.guards) if self._sizes else 0

    def is_fixed(self) -> bool:
        """Whether a size is a constant by now, or a condition on one size alone was noted."""
        if not self._sizes:
            return False
        if any(self._environment.replace(size.node.expr).is_number for size in self._sizes):
            return True
        noted = self._environment.guards[self._known :]
        return any(len(guard.expr.free_symbols) == 1 for guard in noted)
