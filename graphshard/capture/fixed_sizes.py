"""Find the call that fixes a number of nodes or edges to that of the example: torch.export names it not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FixedSizeError(Exception):
    """Names the function after whose call a row count had become a constant."""


class StopAtFixedSize(TorchFunctionMode):
    """While a model is traced: raise FixedSizeError, from the user's own frame, where a row count is fixed.

    Args:
        flat: the traced inputs; those of their sizes that are symbols at the start are watched.
    """

    def __init__(self, flat: Sequence[Tensor]) -> None:
        super().__init__()
        self.sizes: list[Any] = [size for t in flat for size in t.shape if isinstance(size, torch.SymInt)]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(size.node.shape_env.replace(size.node.expr).is_number for size in self.sizes):
            raise FixedSizeError(getattr(func, "__name__", str(func)))
        return result
