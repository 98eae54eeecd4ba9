"""Find the call that fixes a number of nodes or edges to that of the example: torch.export names it not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from graphshard.private.symbolic_sizes import NotedSizes


class FixedSizeError(Exception):
    """Names the function that asked for some row counts only; empty where plain Python did."""


class StopAtFixedSize(TorchFunctionMode):
    """While a model is traced: raise FixedSizeError, from the user's own frame, where a row count is fixed.

    Args:
        flat: the traced inputs; those of their sizes that are symbols at the start are watched.
    """

    def __init__(self, flat: Sequence[Tensor]) -> None:
        super().__init__()
        self.sizes = NotedSizes([size for t in flat for size in t.shape])

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.sizes.is_fixed():  # by plain Python since the call before
            raise FixedSizeError
        result = func(*args, **(kwargs or {}))
        if self.sizes.is_fixed():
            raise FixedSizeError(getattr(func, "__name__", str(func)))
        return result
