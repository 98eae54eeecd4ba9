"""What forward calls while it runs on examples that no program would repeat: random numbers of Python and NumPy."""

from __future__ import annotations

import functools
import pickle
import random
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

from graphshard.errors import CaptureError
from graphshard.ir.source import is_own


@contextmanager
def refuse_unseen_calls() -> Iterator[None]:
    """While forward runs on examples, refuse calls whose effect a captured program would not have.

    These are draws of Python's ``random`` and of NumPy (one draw would be baked in) and derivatives that forward
    takes by itself.

    Raises:
        CaptureError: names the call and the user's line, and says what to do instead.
    """
    watch, before, state = _Watch(), sys.getprofile(), _numpy_state()
    sys.setprofile(watch)
    try:
        yield
    except Exception as error:
        if watch.found is None or isinstance(error, CaptureError):
            raise
    finally:
        sys.setprofile(before)
    if watch.found is not None:
        raise watch.found
    if _numpy_state() != state:  # its functions are of C, which no profile sees
        raise CaptureError(f"forward draws from NumPy's random numbers: {_DRAW}")


@contextmanager
def unwatched() -> Iterator[None]:
    """What graphshard itself calls while forward runs under :func:`refuse_unseen_calls`."""
    before = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(before)


class _Watch:
    """A profile function that keeps the first call to refuse."""

    def __init__(self) -> None:
        self.found: CaptureError | None = None
        self._derivatives: dict[CodeType, str] = {
            torch.autograd.grad.__code__: "torch.autograd.grad",
            torch.autograd.backward.__code__: "backward",
        }

    def __call__(self, frame: FrameType, event: str, what: Any) -> None:
        if self.found is not None:
            return
        if event == "c_call" and isinstance(getattr(what, "__self__", None), random.Random):
            if what.__name__ not in _WITHOUT_DRAW:
                self.found = _random(frame, what)
        elif event == "call" and frame.f_code in self._derivatives:
            self.found = _derivative(frame, self._derivatives[frame.f_code])


def _numpy_state() -> bytes:
    return pickle.dumps(np.random.get_state(legacy=False))


_DRAW = (
    "a captured program would repeat the one draw that it was captured with. Draw with torch (torch.rand, "
    "torch.randn_like, F.dropout), or draw outside of forward, the same on every rank, and pass the result as an "
    "argument (negative edges as pairs)"
)


_WITHOUT_DRAW = frozenset({"getstate", "get_state", "__getstate__", "__reduce__"})


def _random(frame: FrameType, what: Any) -> CaptureError:
    return CaptureError(f"forward draws from Python's random ({what.__name__}){line_of(frame)}: {_DRAW}")


def _derivative(frame: FrameType, name: str) -> CaptureError:
    return CaptureError(
        f"forward takes a derivative by itself with {name} of autograd{line_of(frame)}, which "
        "cannot be captured: return the differentiated value from forward and call torch.autograd.grad on it outside, "
        "with the shard's tensors as inputs"
    )


def line_of(frame: FrameType | None, *, passing_own: bool = False) -> str:
    """`` (file:line: `code`)`` of the innermost frame that is the user's.

    Args:
        frame: where to begin.
        passing_own: whether graphshard's own files are passed over; they hold models of the command line too.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if not is_library(file) and not (passing_own and is_own(file)):
            text = traceback.FrameSummary(file, frame.f_lineno, frame.f_code.co_name).line
            return f" ({file}:{frame.f_lineno}: `{text}`)"
        frame = frame.f_back
    return ""


def is_library(file: str) -> bool:
    """Whether a source file is Python's or an installed package's, and not the user's."""
    return file.startswith((*_library_folders(), "<frozen"))


@functools.cache  # they stay where they are
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
