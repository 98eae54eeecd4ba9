"""What commands print: results to stdout, progress and errors to stderr, JSON alone where it was asked for."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import warnings
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

_PLAIN_WIDTH = 120
# What is wrong with the model or the data; which rank was the first to say so does not matter.
_SAME_ON_ALL_RANKS = ("CaptureError", "CheckpointError", "UnsupportedOperation", "DataError")
# multiprocessing's tracker tells of semaphores that a killed rank held; it removes them itself.
_TRACKER = "ignore::UserWarning:multiprocessing.resource_tracker"


def debugging() -> bool:
    """Whether ``graphshard --debug`` or ``GRAPHSHARD_DEBUG=1`` asked for tracebacks and warnings."""
    return os.environ.get("GRAPHSHARD_DEBUG", "") not in ("", "0")


def console(*, stderr: bool = False) -> Console:
    """Colours and the terminal's width on a terminal; plain text of a fixed width anywhere else."""
    plain = Console(stderr=stderr, highlight=False)
    if plain.is_terminal:
        return plain
    return Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH, color_system=None)


def show(*parts: RenderableType) -> None:
    """Print results to stdout. Text is printed as it is and, for grep's sake, never broken into lines."""
    out = console()
    for part in parts:
        if isinstance(part, str):
            out.print(part, markup=False, soft_wrap=True)
        else:
            out.print(part)


def show_json(document: Any) -> None:
    """Print the one JSON document to stdout; NaN and infinities, which JSON lacks, as text."""
    print(json.dumps(_jsonable(document), indent=2, allow_nan=False))


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value


def show_error(error: BaseException) -> None:
    """One sentence on stderr; with ``--debug`` the traceback before it."""
    err = console(stderr=True)
    if debugging():
        import traceback

        err.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    rank = os.environ.get("RANK", "0")  # of torchrun's, whose ranks share a terminal
    err.print("[bold red]error:[/] " + (f"rank {rank}: " if rank != "0" else ""), end="")
    err.print(sentence(error), markup=False, soft_wrap=True)


def show_signal(ended: SystemExit) -> None:
    """Say on stderr which signal ended the command, if one did."""
    code = ended.code if isinstance(ended.code, int) else 0
    if code > _BY_SIGNAL:
        name = signal.Signals(code - _BY_SIGNAL).name
        console(stderr=True).print(f"ended by {name}: ranks are stopped, temporary files are removed")


_BY_SIGNAL = 128
"""What a shell adds to a signal's number for the exit code of a process that it ended."""


def sentence(error: BaseException) -> str:
    """An error's message on one line, without the traceback of a rank that it may carry."""
    from graphshard import errors

    text = re.split(r"\n\s*(?:Traceback \(most recent|Thread 0x|Current thread)", str(error), maxsplit=1)[0]
    text = " ".join(text.split())
    if not isinstance(error, errors.GraphshardError):
        return f"{type(error).__name__}: {text} (unexpected: `graphshard --debug` shows where)"
    rank = re.match(r"(rank \d+ of \d+ failed: )(\w+): ", text)
    if rank is None or not hasattr(errors, rank[2]):
        return text
    return ("" if rank[2] in _SAME_ON_ALL_RANKS else rank[1]) + text.removeprefix(rank[0])


def quiet() -> None:
    """Keep warnings and log lines of torch and PyG off the user's terminal, in this process."""
    if debugging():
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PYTHONWARNINGS", _TRACKER)
    for name in ("torch", "torch_geometric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def bytes_text(count: float) -> str:
    """``1234567`` -> ``1.23 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
