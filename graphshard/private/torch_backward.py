"""What a script differentiates, seen from outside of the script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

__all__ = ["watched_backward"]


@contextmanager
def watched_backward(seen: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside the block, ``seen`` is called with each tensor that a script calls ``backward`` of, before it runs.

    For the whole process. Relies on ``loss.backward()`` being found in ``torch.Tensor`` anew in each call and calling
    ``torch.autograd.backward(tensors, ...)``, found anew as well; ``torch.autograd.grad`` calls neither.
    """
    run = torch.autograd.backward

    def watched(tensors: Tensor | Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        for tensor in [tensors] if isinstance(tensors, Tensor) else tensors:
            if isinstance(tensor, Tensor):
                seen(tensor)
        return run(tensors, *args, **kwargs)

    with mock.patch.object(torch.autograd, "backward", watched):
        yield
