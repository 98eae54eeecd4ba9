"""Compiles the kernels' loops with numba, and keeps their machine code on disk.

numba's cache knows a function by the one file it stands in, and the loops here are written in several: after a
change of another of them the old machine code would run. So the code is kept in a folder that is named by all of
the kernels' sources (and ``private/numba_internals.py``), by numba's and llvmlite's versions and by the processor.
What no folder can hold is compiled in memory, by each process anew.

numba numbers the files of a cache by what it has just read there, and two processes may take one number for
different code. Each kind of argument is therefore compiled, or loaded, under a lock (``Loop``).
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numba
import numpy as np
from filelock import FileLock

from graphshard.private import numba_internals

_SOURCES = Path(__file__).parent


class Loop:
    """A function that numba compiles for each kind of arguments it is called with.

    Its parameters are flat arrays, None, ints and floats; the last two, ``lo`` and ``hi``, say which rows it works
    on, so that with 0 and 0 it does nothing.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function, self._folder = function, code_folder()
        self._compiled = _njit(function, self._folder)
        self._ready: set[tuple[Any, ...]] = set()
        self._lock = Lock()
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any) -> None:
        kinds = tuple(arg.dtype if isinstance(arg, np.ndarray) else type(arg) for arg in args)
        if kinds not in self._ready:
            with self._lock:
                self._prepare((*args[:-2], 0, 0))
                self._ready.add(kinds)
        self._compiled(*args)

    def _prepare(self, nothing: tuple[Any, ...]) -> None:
        """Load the machine code for these kinds of arguments, or compile it and save it."""
        if self._folder is not None:
            try:
                with FileLock(self._folder / "lock"):
                    self._compiled(*nothing)
                return
            except Exception as error:  # a full disk, a file that cannot be read, a file system without locks
                why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                _warn_of_no_folder(f"{self._folder} cannot be used ({why})")
                self._folder, self._compiled = None, _njit(self._function, None)
        self._compiled(*nothing)


def _njit(function: Callable[..., None], folder: Path | None) -> Any:
    compiled = numba.njit(nogil=True, boundscheck=False, error_model="numpy", cache=folder is not None)
    if folder is None:
        return compiled(function)
    # numba asks for its folder when a function is decorated. The rest of the process keeps its own setting.
    with numba_internals.cache_folder(str(folder)):
        return compiled(function)


@cache
def code_folder() -> Path | None:
    """Where the machine code of these sources is kept; None, and a warning, where nothing can be written."""
    for parent in _parents():
        folder = parent / f"graphshard-kernels-{_digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    _warn_of_no_folder(f"neither {' nor '.join(map(str, _parents()))} can be written")
    return None


def _parents() -> Iterator[Path]:
    """Folders for machine code in numba's own order: the one asked for, the one of the sources, the user's."""
    if chosen := numba_internals.chosen_folder():
        yield Path(chosen)
    yield _SOURCES / "__pycache__"
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if user.is_absolute():  # it is "~/.cache" for a user without a home
        yield user


def _digest() -> str:
    """The name of everything the machine code is made of."""
    found = hashlib.sha256()
    for part in (sys.version, *numba_internals.toolchain(), platform.machine()):
        found.update(part.encode() + b"\0")
    for file in (*sorted(_SOURCES.glob("*.py")), Path(numba_internals.__file__)):
        found.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:24]


@cache  # once: numba clears what Python remembers of warnings
def _warn_of_no_folder(why: str) -> None:
    warnings.warn(
        f"the kernels are compiled anew in every process, which takes seconds: {why}; set NUMBA_CACHE_DIR to a "
        "folder that you can write",
        RuntimeWarning,
        stacklevel=2,
    )
