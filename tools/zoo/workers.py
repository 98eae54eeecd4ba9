"""Run configurations in worker processes, so that one that crashes its process loses itself alone.

::

    names --> worker 0 --> outcomes        a worker that dies or takes too long is replaced;
          \\-> worker 1 -->                 the configuration that it held is wrong
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic

import torch

from graphshard.tools import output
from graphshard.tools.zoo import configurations
from graphshard.tools.zoo.configuration import Configuration
from graphshard.tools.zoo.run import Outcome, Result, run_configuration

LIMIT = 120.0
"""Seconds that one configuration may take."""

Task = tuple[str, str]


@dataclass
class _Worker:
    """A process, the end of the pipe to it, and what it is doing since when."""

    process: BaseProcess
    pipe: Connection
    task: Task
    since: float

    def give(self, task: Task) -> None:
        self.task, self.since = task, monotonic()
        with suppress(OSError):  # it died: its end of the pipe says so when its outcome is read
            self.pipe.send(task)


def run_all(tasks: Sequence[tuple[str, Configuration]], seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come, in no order if there are several jobs.

    Args:
        tasks: group and configuration.
        seeds: the graphs.
        jobs: worker processes; with 0 everything runs in this one.
    """
    if jobs == 0:
        for group, configuration in tasks:
            yield run_configuration(group, configuration, seeds)
        return
    waiting = deque((group, configuration.name) for group, configuration in tasks)
    workers = [_start(waiting.popleft(), seeds) for _ in range(min(jobs, len(waiting)))]
    try:
        while workers:
            ready = wait([w.pipe for w in workers], timeout=1.0)
            for worker in list(workers):
                outcome = _outcome(worker, worker.pipe in ready)
                if outcome is None:
                    continue
                yield outcome
                alive = worker.process.is_alive()
                if not waiting:
                    workers.remove(worker)
                    _stop(worker)
                elif alive:
                    worker.give(waiting.popleft())
                else:
                    workers[workers.index(worker)] = _start(waiting.popleft(), seeds)
    finally:
        for worker in workers:
            _stop(worker)


def _start(task: Task, seeds: Sequence[int]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, list(seeds)), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(process, mine, task, monotonic())
    worker.give(task)
    return worker


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _outcome(worker: _Worker, ready: bool) -> Outcome | None:
    """What a worker has to say of its task; None where it is still at it."""
    if ready:
        try:
            outcome: Outcome = worker.pipe.recv()
            return outcome
        except (EOFError, OSError):
            worker.process.join()
            kind = f"the process died with exit code {worker.process.exitcode}"
    elif monotonic() - worker.since > LIMIT:
        worker.process.kill()
        worker.process.join()
        kind = f"it took longer than {LIMIT:.0f} s"
    else:
        return None
    group, name = worker.task
    return Outcome(name, group, Result.wrong, kind, kind, monotonic() - worker.since)


def _work(pipe: Connection, seeds: Sequence[int]) -> None:
    """A worker: run what comes through the pipe until it is closed."""
    output.quiet()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    zoo = {configuration.name: configuration for _, configuration in configurations()}
    while True:
        try:
            group, name = pipe.recv()
        except EOFError:
            return
        pipe.send(run_configuration(group, zoo[name], seeds))
