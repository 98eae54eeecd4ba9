"""Fake tensors: shapes and dtypes without data, as the nodes of a captured graph have them in ``meta["val"]``."""

from __future__ import annotations

import contextlib
from typing import Any

from torch._subclasses import FakeTensor

__all__ = ["FakeTensor", "fake_mode_of", "unknown_size", "without_cache"]


def fake_mode_of(value: Any) -> Any:
    """The mode that a fake tensor was made in, a context in which ops take fake tensors; None of anything else.

    Relies on ``FakeTensor.fake_mode``, and on ``FakeTensorMode.from_tensor`` where a caller makes one of a tensor.
    """
    return value.fake_mode if isinstance(value, FakeTensor) else None


def unknown_size(mode: Any) -> Any:
    """A new ``torch.SymInt`` that equals no other size: a number of rows that is known at run time only.

    Relies on ``FakeTensorMode.shape_env`` and ``ShapeEnv.create_unbacked_symint``.
    """
    return mode.shape_env.create_unbacked_symint()


def without_cache() -> contextlib.AbstractContextManager[Any]:
    """Inside the block new modes compute each op afresh: a trace meets an op of the same sizes seldom again.

    Relies on ``torch._dynamo.config.fake_tensor_cache_enabled``, which a ``FakeTensorMode`` reads when it is made.
    """
    from torch._dynamo import config  # takes a second, unless something was exported before

    patched: contextlib.AbstractContextManager[Any] = config.patch(fake_tensor_cache_enabled=False)
    return patched
