"""Real ranks on this machine: a gloo process each, started and watched by torch's elastic launcher.

::

    launch(fn, 2) --> forkserver, torch imported once --+--> rank 0: gloo, fn(*args), result --+
                                                        +--> rank 1: gloo, fn(*args), result --+--> list

The processes leave notes in a folder of the run: what went wrong, when, and where a rank was when its time
was over. From these one `GraphshardError` names the rank that failed first. A rank that fails waits a moment
before it exits: it may have failed because a peer died, and the launcher shall see the dead one first.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from graphshard.errors import GraphshardError
from graphshard.memory import with_allocator

__all__ = ["launch"]

T = TypeVar("T")

PRELOADED = ["graphshard.launch", "graphshard.kernels.preloaded", "torch.export._trace"]
"""What every rank imports sooner or later; the forkserver skips what is not there, as numba may be."""
_POLL_SECONDS = 0.05
# A rank whose peer died fails within milliseconds of it; many polls later the launcher has seen the dead one.
_LINGER_SECONDS = 1.0
# Past the process group's own timeout, which names the operation that waited.
_GRACE_SECONDS = 5.0
# The launcher gives each process its own values of these; the caller's must not replace them.
_LAUNCHER_ENV = ("TORCHELASTIC_", "TORCH_NCCL_", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class _Job:
    """What every rank's process is given. ``payload`` is pickled apart: failing to read it is then caught."""

    payload: bytes
    folder: str
    env: dict[str, str]
    threads: int
    timeout: float
    run_timeout: float


def launch(
    fn: Callable[..., T],
    world_size: int,
    args: Sequence[Any] = (),
    *,
    timeout: float = 300.0,
    run_timeout: float | None = None,
) -> list[T]:
    """Run ``fn(*args)`` in ``world_size`` processes of this machine, with gloo's default process group ready.

    Each process gets its share of the cores, or ``OMP_NUM_THREADS`` threads where that is set. They come from
    a forkserver that has imported torch, started by the first launch: 1 to 2 s, then 0.1 to 0.4 s a launch. Where
    ``graphshard[fast]`` is installed it starts with another memory allocator (docs/memory.md).

    Args:
        fn: a module-level function; arguments and results are pickled, tensors by value.
        world_size: the number of processes, at least 1.
        timeout: seconds for a collective to complete: how long ranks wait for one that hangs.
        run_timeout: seconds for the whole run of a rank, ``math.inf`` for no end; None is a little more than
            ``timeout``, so that the collective that waited is named.

    Returns:
        The results, in rank order.

    Raises:
        GraphshardError: ``fn`` cannot be sent to a process; or a rank raised, died or took too long. Names
            the rank that failed first and its error. The other ranks have been stopped.
    """
    if world_size < 1:
        raise GraphshardError(f"a launch needs at least one rank, not {world_size}")
    payload = _pack(fn, args)
    with tempfile.TemporaryDirectory(prefix="graphshard-launch-") as folder, ExitStack() as stack:
        for guard in (_restored_signals(), _restored_env(), _quiet_launcher(), _hidden_main()):
            stack.enter_context(guard)
        limit = timeout + _GRACE_SECONDS if run_timeout is None else run_timeout
        job = _Job(payload, folder, dict(os.environ), _threads_per_rank(world_size), timeout, limit)
        try:
            results = elastic_launch(_config(world_size, folder, timeout), _run_rank)(job)
        except ChildFailedError as error:
            raise GraphshardError(_explain(error, Path(folder), world_size)) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise
    return [pickle.loads(results[rank]) for rank in range(world_size)]


def _pack(fn: Callable[..., Any], args: Sequence[Any]) -> bytes:
    if fn.__module__ == "__main__" and not _main_is_importable():
        raise GraphshardError(
            f"{fn.__qualname__} is defined in an interactive session, which other processes cannot import; "
            "move it to a file"
        )
    try:
        return pickle.dumps((fn, tuple(args)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise GraphshardError(
            f"cannot send {getattr(fn, '__qualname__', fn)} and its arguments to other processes: {error}; "
            "use a module-level function and picklable arguments"
        ) from error


def _threads_per_rank(world_size: int) -> int:
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    return max(1, usable_cores() // world_size)


def usable_cores() -> int:
    """The cores this process may use, where the platform tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _config(world_size: int, folder: str, timeout: float) -> LaunchConfig:
    start_method = "spawn"
    if "forkserver" in multiprocessing.get_all_start_methods():
        start_method = "forkserver"
        # Has no effect once the forkserver runs. Without it, it would import the caller's __main__ first.
        multiprocessing.set_forkserver_preload(PRELOADED)
        with with_allocator():
            forkserver.ensure_running()
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        run_id=uuid.uuid4().hex,
        role="rank",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        rdzv_configs={"timeout": max(1, int(timeout))},
        local_addr="localhost",  # a name lookup of this host can take seconds
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        start_method=start_method,
        logs_specs=DefaultLogsSpecs(log_dir=str(Path(folder) / "logs")),
    )


# ---- what launching must leave as it was -------------------------------------------------------------------


@contextmanager
def _restored_signals() -> Iterator[None]:
    """The launcher installs handlers, in the main thread, and leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _restored_env() -> Iterator[None]:
    name = "TORCHELASTIC_SIGNALS_TO_HANDLE"
    kept = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if kept is not None:
            os.environ[name] = kept


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher logs a failed rank with a traceback of its own; the error raised says more."""
    names = ("distributed.elastic.multiprocessing.api", "distributed.elastic.agent.server.api")
    loggers = [logging.getLogger(f"torch.{name}") for name in (*names, "multiprocessing.spawn")]
    kept = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, kept, strict=True):
            logger.setLevel(level)


def _main_is_importable() -> bool:
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (file is not None and os.path.exists(file))


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep the processes from importing a ``__main__`` that is no file (``python - < script``)."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or _main_is_importable():
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


# ---- in a rank's process -----------------------------------------------------------------------------------


def _run_rank(job: _Job) -> bytes:
    """One rank, from start to its pickled result. Leaves a note and exits where anything goes wrong."""
    rank, folder = int(os.environ["RANK"]), Path(job.folder)
    (folder / f"{rank}.started").touch()
    with open(folder / f"{rank}.stuck", "w") as stuck:
        if job.run_timeout < math.inf:
            # In C, so it also ends a process that never returns to Python; exits with status 1.
            faulthandler.dump_traceback_later(job.run_timeout, exit=True, file=stuck)
        try:
            return _call(job)
        except BaseException as error:
            _leave_note(folder, rank, error)
            time.sleep(_LINGER_SECONDS)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # an orderly exit would wait for the process group
        finally:
            faulthandler.cancel_dump_traceback_later()


def _call(job: _Job) -> bytes:
    # A forkserver keeps the environment it was started with.
    os.environ.update({k: v for k, v in job.env.items() if not k.startswith(_LAUNCHER_ENV)})
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    torch.set_num_threads(job.threads)
    fn, args = pickle.loads(job.payload)
    dist.init_process_group("gloo", timeout=timedelta(seconds=job.timeout))
    result = pickle.dumps(fn(*args))
    dist.barrier()  # a rank that leaves early would break the connections of the others
    dist.destroy_process_group()
    return result


def _leave_note(folder: Path, rank: int, error: BaseException) -> None:
    note = {
        "time": time.time(),
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    draft = folder / f"{rank}.draft"
    draft.write_text(json.dumps(note))
    draft.rename(folder / f"{rank}.error")  # never seen half written


# ---- what went wrong ---------------------------------------------------------------------------------------


def _explain(error: ChildFailedError, folder: Path, world_size: int) -> str:
    """One message that names the rank that failed first."""
    rank, failure = error.get_first_failure()
    notes = {}
    for other in range(world_size):
        if (path := folder / f"{other}.error").exists():
            notes[other] = json.loads(path.read_text())
    if rank not in notes:
        return _explain_silent(rank, failure, folder, world_size)
    first = min(notes, key=lambda r: notes[r]["time"])
    silent = [other for other in range(world_size) if other not in notes]
    return (
        f"rank {first} of {world_size} failed: {notes[first]['error']}\n\n{notes[first]['traceback']}"
        f"Stopped without an error of their own: {', '.join(f'rank {r}' for r in silent) or 'none'}"
    )


def _explain_silent(rank: int, failure: ProcessFailure, folder: Path, world_size: int) -> str:
    name, stuck = f"rank {rank} of {world_size}", folder / f"{rank}.stuck"
    if not (folder / f"{rank}.started").exists():
        return (
            f"{name} could not start (exit code {failure.exitcode}); its output says why. "
            'In a script, call launch only under `if __name__ == "__main__":`'
        )
    if stuck.exists() and stuck.stat().st_size:
        return f"{name} was stopped, its time was over:\n\n{stuck.read_text().rstrip()}"
    if failure.exitcode < 0:
        return f"{name} died: killed by signal {-failure.exitcode} ({failure.signal_name()})"
    return f"{name} died: the process exited with code {failure.exitcode}"
