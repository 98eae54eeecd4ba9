"""Which region of ``torch.utils.checkpoint`` runs here, and whether for the first time."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import _CheckpointFrame

__all__ = ["Region", "in_backward", "region"]


@dataclass(frozen=True)
class Region:
    """One run of a region under ``checkpoint(..., use_reentrant=False)``.

    Attributes:
        frame: the region, the same object in its first run and in each one in backward.
        run: this run, an object of its own for each.
        again: whether it is one in backward.
    """

    frame: Any
    run: Any
    again: bool


def region() -> Region | None:
    """The innermost checkpointed region that runs in this thread; None outside of any.

    Relies on ``torch.utils.checkpoint`` pushing hooks on saved tensors for each run, whose first function closes over
    the ``_CheckpointFrame``, or in backward over a weak reference to it.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None:
        return None
    pack: Callable[..., Any] = inspect.unwrap(hooks[0])
    for cell in getattr(pack, "__closure__", None) or ():
        held = cell.cell_contents
        if isinstance(held, _CheckpointFrame):
            return Region(held, pack, False)
        if isinstance(held, weakref.ref) and isinstance(frame := held(), _CheckpointFrame):
            return Region(frame, pack, True)
    return None


def in_backward() -> bool:
    """Whether autograd's engine calls what runs here. Relies on ``torch._C._current_graph_task_id``."""
    return bool(torch._C._current_graph_task_id() != -1)
