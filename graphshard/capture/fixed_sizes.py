"""Find the call that fixes a number of nodes or edges to that of the example: torch.export names it not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FixedSizeError(Exception):
    """Names the function that asked for some row counts only; empty where plain Python did."""


class StopAtFixedSize(TorchFunctionMode):
    """While a model is traced: raise FixedSizeError, from the user's own frame, where a row count is fixed.

    Args:
        flat: the traced inputs; those of their sizes that are symbols at the start are watched.
    """

    def __init__(self, flat: Sequence[Tensor]) -> None:
        super().__init__()
        sizes: list[Any] = [size for t in flat for size in t.shape if isinstance(size, torch.SymInt)]
        self.sizes = sizes
        self.known = len(sizes[0].node.shape_env.guards) if sizes else 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._is_fixed():  # by plain Python since the call before
            raise FixedSizeError
        result = func(*args, **(kwargs or {}))
        if self._is_fixed():
            raise FixedSizeError(getattr(func, "__name__", str(func)))
        return result

    def _is_fixed(self) -> bool:
        """Whether a size is a constant by now, or a condition on one size alone was noted."""
        if not self.sizes:
            return False
        environment = self.sizes[0].node.shape_env
        if any(environment.replace(size.node.expr).is_number for size in self.sizes):
            return True
        noted = environment.guards[self.known :]
        return any(len(guard.expr.free_symbols) == 1 for guard in noted)
