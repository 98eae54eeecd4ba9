"""What ranks leave in the folder of their run, and what the launching process makes of it: who failed first, and why.

::

    0.started   0.result   0.error   0.stuck      of rank 0: began; ended well; raised; where it was when it was asked

A rank that waits for another until the timeout is not the one that failed: the one that did not come is named.
"""

from __future__ import annotations

import json
import signal
import time
import traceback
from pathlib import Path
from typing import Any


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that nobody sees half written."""
    draft = file.with_suffix(".draft")
    draft.write_bytes(content)
    draft.rename(file)


def leave_note(folder: Path, rank: int, error: BaseException) -> None:
    """Say in the run's folder what went wrong on a rank, and when."""
    note = {
        "time": time.time(),
        "error": f"{type(error).__name__}: {error}",
        "waited in": _collective(error) if _timed_out(str(error)) else None,
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_whole(folder / f"{rank}.error", json.dumps(note).encode())


def explain(rank: int, exitcode: int, folder: Path, world_size: int) -> str:
    """One message that names the rank that failed first."""
    notes = {}
    for other in range(world_size):
        if (path := folder / f"{other}.error").exists():
            notes[other] = json.loads(path.read_text())
    if rank not in notes:
        return _silent(rank, exitcode, folder, world_size)
    first = min(notes, key=lambda r: notes[r]["time"])
    silent = [other for other in range(world_size) if other not in notes]
    if silent and notes[first]["waited in"]:
        return _missing(first, notes[first], silent, folder, world_size)
    return (
        f"rank {first} of {world_size} failed: {notes[first]['error']}\n\n{notes[first]['traceback']}"
        f"Stopped without an error of their own: {', '.join(f'rank {r}' for r in silent) or 'none'}"
    )


def _timed_out(said: str) -> bool:
    """Whether an error is that of a collective that another rank did not come to: gloo's or NCCL's words."""
    return "Timed out waiting" in said or "Watchdog caught collective operation timeout" in said


def _collective(error: BaseException) -> str:
    """What a rank was in when it raised: the function of torch.distributed, or ours."""
    frames = traceback.extract_tb(error.__traceback__)
    known = [f.name for f in frames if Path(f.filename).name == _COLLECTIVES]
    return known[-1] if known else "exchange" if frames[-1].name == "wait" else frames[-1].name


_COLLECTIVES = "distributed_c10d.py"


def _missing(first: int, note: dict[str, Any], silent: list[int], folder: Path, world_size: int) -> str:
    """Name the ranks that did not come to the collective in which another waited."""
    where = {rank: _stack(folder / f"{rank}.stuck") for rank in silent}
    absent = [rank for rank in silent if _COLLECTIVES not in where[rank]] or silent
    names = " and ".join(f"rank {rank}" for rank in absent)
    said = [
        f"{names} of {world_size} did not come to {note['waited in']}, where rank {first} waited for the timeout"
    ]
    for rank in absent:
        said.append(f"rank {rank} {_doing(where[rank])}")
    return ". ".join(said) + f"\n\n{note['traceback']}" + "".join(f"\n{text}" for text in where.values())


def _stack(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _doing(stack: str) -> str:
    """Where a rank was when it was asked, from the innermost line of its stack."""
    if not stack.strip():
        return "does not answer: it is stopped, or busy outside of Python"
    innermost = next((line.strip() for line in stack.splitlines() if line.strip().startswith("File ")), "")
    return f"was at {innermost}" if innermost else "was at work"


def _silent(rank: int, exitcode: int, folder: Path, world_size: int) -> str:
    name, stuck = f"rank {rank} of {world_size}", folder / f"{rank}.stuck"
    if not (folder / f"{rank}.started").exists():
        return (
            f"{name} could not start (exit code {exitcode}); its output says why. "
            'In a script, call launch only under `if __name__ == "__main__":`'
        )
    if stuck.exists() and stuck.stat().st_size:
        return f"{name} was stopped, its time was over:\n\n{stuck.read_text().rstrip()}"
    if exitcode < 0:
        return f"{name} died: killed by signal {-exitcode} ({signal.Signals(-exitcode).name})"
    return f"{name} died: the process exited with code {exitcode}"
