"""Real ranks on this machine: a gloo process each.

::

    launch(fn, 2) --> forkserver, torch imported once --+--> rank 0: gloo, fn(*args), result --+
                                                        +--> rank 1: gloo, fn(*args), result --+--> list

Nobody else gets in: ranks find each other through a file in a folder of the run that only its owner can read, gloo
listens on the loopback interface alone, and results come back as files of that folder.

The processes leave notes there as well: what went wrong, when, and where a rank was when its time was over. From
these one `GraphshardError` names the rank that failed first. A rank that fails waits a moment before it exits: it
may have failed because a peer died, and the launching process shall see the dead one first.
"""

from __future__ import annotations

import faulthandler
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from graphshard.errors import GraphshardError
from graphshard.private.torch_export import TRACER
from graphshard.ranks.memory import with_allocator
from graphshard.ranks.notes import explain, leave_note, write_whole

__all__ = ["launch", "signals_end_this_process"]

T = TypeVar("T")

PRELOADED = ["graphshard.ranks.launch", "graphshard.api", "graphshard.kernels.preloaded", TRACER]
"""What every rank imports sooner or later; the forkserver skips what is not there, as numba may be."""
LIBRARIES = ("torch_geometric.nn",)
"""What takes seconds to import, and ranks need where the process that starts them has: once, not once for each."""
# A rank whose peer died fails within milliseconds of it; the launching process then sees the dead one first.
_LINGER_SECONDS = 1.0
# Past the process group's own timeout, which names the operation that waited.
GRACE_SECONDS = 5.0
# From a polite end of the other ranks to a hard one.
_STOP_SECONDS = 10.0
# A rank that is asked where it is answers in C, whatever it does in Python.
_WHERE, _ANSWER_SECONDS = signal.SIGUSR1, 0.3
# What Python adds to it, in the path of a socket.
_LONG_FOLDER = 108 - len("/pymp-01234567/listener-01234567") - 8
_LOOPBACK = "lo" if sys.platform.startswith("linux") else "lo0"
# A job that this process may be a rank of; its own ranks are of another.
_OF_ANOTHER_JOB = ("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE")


@dataclass(frozen=True)
class _Job:
    """What every rank's process is given. ``payload`` is pickled apart: failing to read it is then caught."""

    payload: bytes
    folder: str
    env: dict[str, str]
    world_size: int
    threads: int
    timeout: float
    run_timeout: float
    temporary: tuple[str, ...]


def launch(
    fn: Callable[..., T],
    world_size: int,
    args: Sequence[Any] = (),
    *,
    timeout: float = 300.0,
    run_timeout: float | None = None,
    temporary: Sequence[Path] = (),
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
        temporary: folders of the caller's that are of no use without it: ranks remove them if this process
            is killed.

    Returns:
        The results, in rank order.

    Raises:
        GraphshardError: ``fn`` cannot be sent to a process; or a rank raised, died or took too long. Names
            the rank that failed first and its error. The other ranks have been stopped.
    """
    if world_size < 1:
        raise GraphshardError(f"a launch needs at least one rank, not {world_size}")
    payload = _pack(fn, args)
    _preload(fn.__module__)
    limit = timeout + GRACE_SECONDS if run_timeout is None else run_timeout
    with tempfile.TemporaryDirectory(prefix="graphshard-launch-") as name:  # only its owner can read it
        threads, left = _threads_per_rank(world_size), (name, *map(str, temporary))
        job = _Job(payload, name, _environment(), world_size, threads, timeout, limit, left)
        folder = Path(name)
        with signals_end_this_process():
            _run(job)
        return [pickle.loads(_result(folder, rank).read_bytes()) for rank in range(world_size)]


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


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_JOB}


def _preload(module: str) -> None:
    """What the forkserver imports, once for all ranks; has no effect once it runs.

    Of modules only what is the package's own: a user's may do more than to define when it is imported. Without this the
    forkserver would import the caller's ``__main__`` first.
    """
    own = [module] if module.partition(".")[0] == __name__.partition(".")[0] else []
    multiprocessing.set_forkserver_preload([*PRELOADED, *own, *(m for m in LIBRARIES if m in sys.modules)])


def _context() -> multiprocessing.context.SpawnContext | multiprocessing.context.ForkServerContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    with with_allocator(), _short_temporary_folder():
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """The forkserver's socket stands in the folder for temporary files, and its path must be short (108 bytes)."""
    before, usual = tempfile.tempdir, tempfile.gettempdir()
    if len(os.fsencode(usual)) > _LONG_FOLDER and os.access("/tmp", os.W_OK):
        tempfile.tempdir = "/tmp"
    try:
        yield
    finally:
        tempfile.tempdir = before


def _run(job: _Job) -> None:
    """Start every rank and wait for all results; whatever happens, no process is left behind.

    Raises:
        GraphshardError: a rank failed.
    """
    context = _context()
    processes: list[BaseProcess] = []
    try:
        with _hidden_main():
            for rank in range(job.world_size):
                process = context.Process(target=_run_rank, args=(job, rank), name=f"rank {rank}")
                process.start()
                processes.append(process)
        failed = _first_failure(processes, Path(job.folder))
        if failed is not None:
            _ask_where(processes)
            code = processes[failed].exitcode or 0
            raise GraphshardError(explain(failed, code, Path(job.folder), job.world_size))
    finally:
        _stop(processes)


def _first_failure(processes: Sequence[BaseProcess], folder: Path) -> int | None:
    """The rank that ended without a result, of several the one that could not say why; None where all have one."""
    running = {process.sentinel: rank for rank, process in enumerate(processes)}
    while running:
        ready = wait(list(running))
        ended = [running.pop(sentinel) for sentinel in list(running) if sentinel in ready]
        for rank in ended:
            processes[rank].join()
        failed = [r for r in ended if processes[r].exitcode != 0 or not _result(folder, r).exists()]
        if failed:
            return min(failed, key=lambda rank: (folder / f"{rank}.error").exists())
    return None


def _ask_where(processes: Sequence[BaseProcess]) -> None:
    """Let the ranks that still run write down where they are."""
    running = [process for process in processes if process.exitcode is None and process.pid is not None]
    for process in running:
        with suppress(ProcessLookupError):
            os.kill(process.pid, _WHERE)  # type: ignore[arg-type]
    if running:
        time.sleep(_ANSWER_SECONDS)


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
        if process.exitcode is None and process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)  # one that is stopped hears no other signal
    end = time.monotonic() + _STOP_SECONDS
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()


# ---- what launching must leave as it was -------------------------------------------------------------------


@contextmanager
def signals_end_this_process() -> Iterator[None]:
    """What would end this process at once raises instead, so that its ranks end with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, _exit_on)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def _exit_on(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # what a shell reports of a process that the signal ended


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


def _run_rank(job: _Job, rank: int) -> None:
    """One rank, from start to the file of its result. Leaves a note and exits where anything goes wrong."""
    folder = Path(job.folder)
    threading.Thread(target=_end_with_the_launcher, args=(job.temporary,), daemon=True).start()
    (folder / f"{rank}.started").touch()
    with open(folder / f"{rank}.stuck", "w") as stuck:
        faulthandler.register(_WHERE, file=stuck, all_threads=False)
        if job.run_timeout < math.inf:
            # In C, so it also ends a process that never returns to Python; exits with status 1.
            faulthandler.dump_traceback_later(job.run_timeout, exit=True, file=stuck)
        try:
            write_whole(_result(folder, rank), _call(job, rank))
        except BaseException as error:
            leave_note(folder, rank, error)
            time.sleep(_LINGER_SECONDS)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # an orderly exit would wait for the process group
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(_WHERE)


def _end_with_the_launcher(temporary: Sequence[str]) -> None:
    """A launching process that was killed could not stop its ranks, nor remove what only it needed."""
    launcher = multiprocessing.parent_process()
    if launcher is not None:
        launcher.join()
        for folder in temporary:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _call(job: _Job, rank: int) -> bytes:
    # A forkserver keeps the environment it was started with.
    os.environ.update(job.env)
    for name, number in (("RANK", rank), ("WORLD_SIZE", job.world_size)):
        os.environ[name] = os.environ[f"LOCAL_{name}"] = str(number)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    os.environ["GLOO_SOCKET_IFNAME"] = _LOOPBACK
    torch.set_num_threads(job.threads)
    fn, args = pickle.loads(job.payload)
    limit = timedelta(seconds=job.timeout)
    store = dist.FileStore(str(Path(job.folder) / "store"), job.world_size)  # type: ignore[attr-defined]
    store.set_timeout(limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.world_size, timeout=limit)
    result = pickle.dumps(fn(*args))
    dist.barrier()  # a rank that leaves early would break the connections of the others
    dist.destroy_process_group()
    return result


def _result(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.result"
