"""Runs that are hit by a fault at a random moment, and go on: nothing is lost, nothing is different, nothing is left.

::

    python -m fuzz.faults --count 100 --seed 0

Each run trains on 2 ranks with a checkpoint after every epoch. A rank is killed or stopped, or the launching process is
killed or told to end. Then all its processes must end, its temporary files must be gone, and the run goes on from its
newest checkpoint on 1, 2 or 3 ranks to the weights of a run without faults (float64, 1e-9).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_LIMIT = 120.0
# While the run still trains: of a launcher that is killed behind its ranks no process is left to tidy up.
_LAST_HIT = 45
_TRAIN = (
    *("train", "gcn", "sbm:nodes=200,degree=6", "--dtype", "float64", "--json", "--timeout", "6"),
    *("--epochs", "60", "--every", "1"),
)
_MARK = "GRAPHSHARD_FAULTS"


@dataclass
class Job:
    """One training run in a folder of its own."""

    folder: Path
    name: str
    process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        environment = {_MARK: self.name, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
        own = ("--save", str(self.weights), "--checkpoint", str(self.kept))
        command = [sys.executable, "-m", "graphshard", *_TRAIN, *own, *more]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def weights(self) -> Path:
        return self.folder / "weights.pt"

    @property
    def kept(self) -> Path:
        return self.folder / "checkpoints"

    def epoch(self) -> int:
        """Of its newest checkpoint."""
        return max((int(path.name.split("-")[1]) for path in self.kept.glob("step-*")), default=0)

    def own(self) -> dict[int, int]:
        """Process id -> that of its parent, of every process of the run."""
        return dict(_processes(f"{_MARK}={self.name}".encode()))

    def ranks(self) -> list[int]:
        """The processes of its ranks: children of the forkserver, which is a child of the launching process."""
        assert self.process is not None
        own = self.own()
        servers = {pid for pid, parent in own.items() if parent == self.process.pid}
        return sorted(pid for pid, parent in own.items() if parent in servers)


def _processes(mark: bytes) -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            state, parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            tracker = b"resource_tracker" in entry.joinpath("cmdline").read_bytes()
            if mark in entry.joinpath("environ").read_bytes() and state != "Z" and not tracker:
                yield int(entry.name), int(parent)


def _signal_rank(number: int) -> Callable[[Job, random.Random], None]:
    def hit(job: Job, place: random.Random) -> None:
        ranks = job.ranks()
        if ranks:
            with suppress(ProcessLookupError):
                os.kill(place.choice(ranks), number)

    return hit


def _signal_launcher(number: int) -> Callable[[Job, random.Random], None]:
    def hit(job: Job, _: random.Random) -> None:
        assert job.process is not None
        job.process.send_signal(number)

    return hit


FAULTS: dict[str, Callable[[Job, random.Random], None]] = {
    "a rank is killed": _signal_rank(signal.SIGKILL),
    "a rank is stopped": _signal_rank(signal.SIGSTOP),
    "the launcher is killed": _signal_launcher(signal.SIGKILL),
    "the launcher is told to end": _signal_launcher(signal.SIGTERM),
    "the launcher is interrupted": _signal_launcher(signal.SIGINT),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Attributes:
        fault: which. problem: what is wrong; empty where all is right.
        seconds: until every process had ended. epoch: of the newest checkpoint then.
    """

    fault: str
    problem: str
    seconds: float
    epoch: int


def undisturbed(folder: Path) -> Path:
    """The weights of a run without faults."""
    job = Job(folder, f"{os.getpid()}-whole")
    job.start()
    assert job.process is not None
    assert job.process.wait(_LIMIT) == 0, (folder / "output").read_text()
    return job.weights


def hit_and_resumed(folder: Path, fault: str, expected: Path, seed: int) -> Outcome:
    """Hit a run at a moment that the seed says, and let it go on."""
    place = random.Random(seed)
    job = Job(folder, f"{os.getpid()}-{seed}")
    job.start()
    process = job.process
    assert process is not None
    begin = time.monotonic()
    after = place.randint(1, _LAST_HIT)
    while job.epoch() < after and process.poll() is None and time.monotonic() - begin < _LIMIT:
        time.sleep(0.01)
    time.sleep(place.uniform(0, 0.1))
    FAULTS[fault](job, place)
    begin = time.monotonic()
    while job.own() and time.monotonic() - begin < _LIMIT:
        process.poll()
        time.sleep(0.05)
    process.poll()  # it may have ended before the first look
    seconds, left = time.monotonic() - begin, list((folder / "tmp").glob("graphshard-*"))
    epoch = job.epoch()
    problem = f"processes {sorted(job.own())} did not end" if job.own() else ""
    if left:
        problem = problem or f"{[path.name for path in left]} were left"
    if not problem:
        job.weights.unlink(missing_ok=True)
        job.start("--resume", "--ranks", str(place.choice([1, 2, 3])))
        assert job.process is not None
        code = job.process.wait(_LIMIT)
        problem = _compared(job.weights, expected) if code == 0 else (folder / "output").read_text()[-400:]
    return Outcome(fault, problem, seconds, epoch)


def _compared(found: Path, expected: Path) -> str:
    one, other = torch.load(found), torch.load(expected)
    for name, value in other.items():
        if not torch.allclose(one[name], value, rtol=1e-9, atol=1e-9):
            return f"{name} differs by {float((one[name] - value).abs().max()):.1e}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="faults-"))
    (top / "whole").mkdir()
    expected = undisturbed(top / "whole")
    counts: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    for number in range(given.seed, given.seed + given.count):
        fault = list(FAULTS)[number % len(FAULTS)]
        folder = top / str(number)
        folder.mkdir()
        outcome = hit_and_resumed(folder, fault, expected, number)
        counts["wrong" if outcome.problem else "right"] += 1
        slowest[fault] = max(slowest.get(fault, 0.0), outcome.seconds)
        said = f"{fault} at epoch {outcome.epoch}, all ended in {outcome.seconds:.1f} s {outcome.problem}"
        print(f"{number}: {said}", flush=True)
        if not outcome.problem:
            shutil.rmtree(folder)
    print(
        json.dumps({"faults": given.count, **counts, "seconds": {k: round(v, 1) for k, v in slowest.items()}})
    )


if __name__ == "__main__":
    main()
