"""A thread for the time of a capture: what a script has switched on for its own thread does not reach the examples.

Modes of dispatch (``FlopCounterMode``, ``DeviceContext``), hooks on saved tensors (``torch.utils.checkpoint``),
``inference_mode`` and functorch's transforms belong to the thread that entered them. On examples they would count what
is no part of a step, run a backward inside of a backward, or leave tensors that no later step can train with.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from graphshard.private.torch_modules import without_module_trackers
from graphshard.private.torch_threads import ready_for_threads

T = TypeVar("T")

ONE_CAPTURE = threading.Lock()
"""Held while a model is captured, of which torch.export takes one at a time."""

_CAPTURING: contextvars.ContextVar[bool] = contextvars.ContextVar("graphshard_capturing", default=False)


def is_capturing() -> bool:
    """Whether this is inside of :func:`in_own_thread`."""
    return _CAPTURING.get()


def in_own_thread(work: Callable[[], T]) -> T:
    """The result of ``work``, run in a new thread while this one waits; what it raises is raised here.

    Whether gradients are recorded, the default device, the current GPU, the number of threads and context variables are
    as in the caller.
    """
    found: list[T] = []
    raised: list[BaseException] = []
    context, gradients, threads = contextvars.copy_context(), torch.is_grad_enabled(), torch.get_num_threads()
    device, gpu = torch.get_default_device(), _current_gpu()

    def run() -> None:
        _CAPTURING.set(True)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if gpu is not None:
            torch.cuda.set_device(gpu)
        with torch.set_grad_enabled(gradients), _default_device(device), without_module_trackers():
            found.append(work())

    def guarded() -> None:
        try:
            with _uncollected():
                context.run(run)
        except BaseException as error:  # the caller raises it
            raised.append(error)

    ready_for_threads()
    thread = threading.Thread(target=guarded, name="graphshard-capture", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Cycles are not looked for: a trace makes objects by the hundred thousand that live as long as it does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _default_device(device: torch.device) -> Any:
    """A context with this default device; of the CPU nothing, for a mode of its own would be seen by every op."""
    return contextlib.nullcontext() if device.type == "cpu" else device


def _current_gpu() -> int | None:
    ready = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.current_device() if ready else None
