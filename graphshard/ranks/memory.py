"""The memory allocator of the processes that graphshard starts, and what a process gives back.

The large tensors of every step come and go. glibc's allocator takes fresh pages of the operating system for each,
and filling in new pages costs more than most arithmetic on them. mimalloc, which ``graphshard[fast]`` installs on
Linux, keeps the pages and needs hardly more of them; it has to be there when a process starts, by ``LD_PRELOAD``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, strided

from graphshard.errors import GraphshardError

__all__ = [
    "allocator_environment",
    "allocator_path",
    "memory_of_process",
    "peak_memory",
    "return_free_memory",
    "return_mapped_pages",
    "with_allocator",
]

_PAGE_OUT = 21
"""``MADV_PAGEOUT`` of <linux/mman.h>, since Linux 5.4, which Python's ``mmap`` has no name for."""

_PACKAGE, _LIBRARY = "cmeel-mimalloc", "libmimalloc.so"
_CHOICE = "GRAPHSHARD_ALLOCATOR"
_SETTINGS = {"MIMALLOC_PURGE_DELAY": "-1"}
"""mimalloc's own: pages that are free stay in the process, for the next step takes them again."""


def allocator_path() -> Path | None:
    """Where mimalloc is installed; None where it is not, or where nothing can be preloaded (not Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name == _LIBRARY)
    return next((path for path in found if path.is_file()), None)


def allocator_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables that give a new process mimalloc; empty without it, or where it is not wanted.

    Args:
        environ: the variables that the process would have; this process's own by default. Libraries that are
            preloaded already stay, before mimalloc, and so do settings of mimalloc.
            ``GRAPHSHARD_ALLOCATOR=system`` leaves everything as it is.

    Raises:
        GraphshardError: ``GRAPHSHARD_ALLOCATOR`` is neither ``mimalloc`` nor ``system``.
    """
    given = os.environ if environ is None else environ
    choice = given.get(_CHOICE, "mimalloc")
    if choice not in ("mimalloc", "system"):
        raise GraphshardError(f"{_CHOICE} is {choice!r}: write mimalloc, or system for the C library's own")
    path = allocator_path() if choice == "mimalloc" else None
    # The loader cuts the list at blanks and colons, so a path with one cannot be told.
    if path is None or any(mark in str(path) for mark in " \t:"):
        return {}
    preloaded = given.get("LD_PRELOAD", "")
    if str(path) not in preloaded.replace(" ", ":").split(":"):
        preloaded = f"{preloaded}:{path}" if preloaded else str(path)
    return {"LD_PRELOAD": preloaded} | {n: v for n, v in _SETTINGS.items() if n not in given}


@contextmanager
def with_allocator() -> Iterator[None]:
    """Processes that are started inside the block have mimalloc, if it is installed; this one stays as it is."""
    added = allocator_environment()
    kept = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def memory_of_process(field: str) -> int | None:
    """Bytes of this process that are in memory: ``VmRSS`` now, ``VmHWM`` at the peak of its life; None but on Linux."""
    try:
        found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def peak_memory() -> int:
    """Bytes that this process had in memory at its peak, what it shares with others included."""
    peak = memory_of_process("VmHWM")
    if peak is not None:
        return peak
    import resource  # of POSIX; in bytes on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def return_free_memory() -> bool:
    """Give the operating system what this process has freed and kept: after something large that happens once.

    Returns:
        Whether the allocator can: mimalloc's ``mi_collect`` or glibc's ``malloc_trim``; else nothing is changed.
    """
    if (collect := _of_process("mi_collect")) is not None:
        collect(ctypes.c_bool(True))
        return True
    if (trim := _of_process("malloc_trim")) is not None:
        trim(0)
        return True
    return False


def return_mapped_pages(tensors: Iterable[Tensor]) -> None:
    """Let go of what is there of files that hold these tensors; it is read again where it is needed.

    For tensors whose memory is a file's, as those of :func:`graphshard.load_shard`, on Linux; of others nothing
    happens. Pages that were written to stay, so no value changes.
    """
    advise = _of_process("madvise")
    if advise is None:
        return
    pages = [whole for tensor in tensors if (whole := _whole_pages(tensor)) is not None]
    mapped = (
        _mapped_files() if pages else []
    )  # there are thousands, and a small tensor has no page of its own
    for start, stop in pages:
        if any(a <= start and stop <= b for a, b in mapped):
            advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _PAGE_OUT)


def _whole_pages(tensor: Tensor) -> tuple[int, int] | None:
    """The addresses of the pages that hold nothing but a tensor; None where there is none."""
    if tensor.layout is not strided or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    page, first = mmap.PAGESIZE, tensor.data_ptr()
    start = -(-first // page) * page
    stop = (first + tensor.numel() * tensor.element_size()) // page * page
    return (start, stop) if stop > start else None


def _mapped_files() -> list[tuple[int, int]]:
    """The addresses at which files lie in this process."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    found = [line[0].split("-") for line in lines if len(line) > 5 and line[4] != "0"]
    return [(int(first, 16), int(last, 16)) for first, last in found]


def _of_process(name: str) -> Any:
    """A function of the C library, or of one that is preloaded; None where none has that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
