"""What ranks leave in the folder of their run, and what the launching process makes of it: who failed first, and why.

::

    0.started   0.result   0.error   0.stuck      of rank 0: began; ended well; raised; where it was when time was over
"""

from __future__ import annotations

import json
import signal
import time
import traceback
from pathlib import Path


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
    return (
        f"rank {first} of {world_size} failed: {notes[first]['error']}\n\n{notes[first]['traceback']}"
        f"Stopped without an error of their own: {', '.join(f'rank {r}' for r in silent) or 'none'}"
    )


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
