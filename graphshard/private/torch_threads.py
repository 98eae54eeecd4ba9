"""What must have happened before torch's work is given to threads that end."""

from __future__ import annotations

import functools
import threading

from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["ready_for_threads"]


@functools.cache
def ready_for_threads() -> None:
    """Do once what the first of several threads would do at a bad time: call it before starting one.

    The first call of a custom op imports ``torch._dynamo``, and several threads importing it at once may see half of
    it. Torch 2.11 keeps the CUDA guard that it registers for the whole process, where there is no GPU, in the thread
    that is the first to make fake tensors: once that thread is over, the next fake tensor is a segmentation fault
    (pytorch#178950). So that first thread is one that never ends.

    Relies on entering a ``FakeTensorMode`` being what registers that guard.
    """
    import torch._dynamo  # noqa: F401

    ready = threading.Event()
    threading.Thread(target=_make_fakes_and_stay, args=(ready,), name="graphshard-fakes", daemon=True).start()
    ready.wait()


def _make_fakes_and_stay(ready: threading.Event) -> None:
    try:
        with FakeTensorMode():
            pass
    finally:
        ready.set()
    threading.Event().wait()
