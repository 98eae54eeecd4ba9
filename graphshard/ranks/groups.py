"""Process groups by name, and a count of the bytes sent through them.

A program names its process group: a string survives tracing, printing and pickling. The empty name ``""``
stands for a single rank, where nothing is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from graphshard.errors import RuntimeMismatch
from graphshard.private.torch_distributed import backend_of, process_group, sends_device_tensors

# What gloo and NCCL both send as it is (measured); rows of any other dtype travel as bytes.
_SENT_AS_IS = frozenset(
    {torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64}
)


def resolve(group: str) -> ProcessGroup | None:
    """The process group of that name; None for ``""``.

    Raises:
        RuntimeMismatch: no group of that name is registered in this process.
    """
    if not group:
        return None
    try:
        return process_group(group)
    except LookupError as error:
        raise RuntimeMismatch(f"there is no process group named {group!r} in this process") from error


_DEFAULT: ContextVar[str | None] = ContextVar("graphshard_default_group", default=None)


@contextmanager
def default_is(group: str) -> Iterator[None]:
    """In this thread, inside the block, the named group is the default one: of a simulated rank, its own."""
    token = _DEFAULT.set(group)
    try:
        yield
    finally:
        _DEFAULT.reset(token)


def default_group() -> str:
    """The name of torch.distributed's default group; ``""`` (a single rank) where none is initialised."""
    own = _DEFAULT.get()
    if own is not None:
        return own
    if not (dist.is_available() and dist.is_initialized()):
        return ""
    world = dist.group.WORLD
    assert world is not None
    return str(world.group_name)


def group_size(group: str) -> int:
    """How many ranks the named group has; 1 for ``""``."""
    pg = resolve(group)
    return 1 if pg is None else pg.size()


def group_rank(group: str) -> int:
    """This rank's number in the named group; 0 for ``""``."""
    pg = resolve(group)
    return 0 if pg is None else pg.rank()


def device_of_numbers(pg: ProcessGroup) -> str:
    """Where numbers for a collective are made: NCCL moves only device tensors; gloo and simulated ranks take both."""
    return "cuda" if sends_device_tensors(pg) else "cpu"


def all_gather_object(obj: Any, group: str) -> list[Any]:
    """Every rank's ``obj`` (picklable), in rank order, on every rank."""
    pg = resolve(group)
    if pg is None:
        return [obj]
    gathered: list[Any] = [None] * pg.size()
    dist.all_gather_object(gathered, obj, group=pg)
    return gathered


def all_gather_numbers(numbers: Sequence[int], device: torch.device, group: str) -> list[list[int]]:
    """Every rank's ``numbers`` (of 64 bits, equally many on every rank), in rank order, on every rank.

    Args:
        numbers: this rank's.
        device: of the tensors that travel; one that the group's backend sends.
        group: the process group's name.
    """
    pg = resolve(group)
    if pg is None:
        return [list(numbers)]
    mine = torch.tensor(numbers, dtype=torch.int64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(pg.size())]
    dist.all_gather(everyone, mine, group=pg)
    return [theirs.tolist() for theirs in everyone]


def all_gather_rows(tensors: Sequence[Tensor], group: str) -> list[list[Tensor]]:
    """Of each tensor every rank's rows, in rank order, on every rank.

    Args:
        tensors: each ``[n, ...]``, of any dtype, with the same n, which may be another on each rank; the same trailing
            shapes and dtypes on every rank.
        group: the process group's name.
    """
    pg = resolve(group)
    if pg is None:
        return [[rows] for rows in tensors]
    first = tensors[0]
    counts = [count for (count,) in all_gather_numbers([first.size(0)], first.device, group)]
    return [_all_gather_counted(rows, counts, pg) for rows in tensors]


def _all_gather_counted(rows: Tensor, counts: list[int], pg: ProcessGroup) -> list[Tensor]:
    # Padded to the longest, for gloo gathers only equal sizes.
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: rows.size(0)] = rows
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather([_wire(part) for part in received], _wire(padded), group=pg)
    return [part[:count] for part, count in zip(received, counts, strict=True)]


def broadcast_first(tensor: Tensor, group: str) -> None:
    """Overwrite ``tensor`` (contiguous, of a dtype that backends send) with rank 0's."""
    pg = resolve(group)
    if pg is not None:
        options = dist.BroadcastOptions()
        options.rootRank = 0  # of the group: dist.broadcast() takes the number in the whole job
        pg.broadcast([tensor], options).wait()


def meet_threads(group: str) -> None:
    """Wait for all ranks where they are threads of one process; ranks with a process each need not."""
    pg = resolve(group)
    if pg is not None and _are_threads(pg):
        dist.barrier(group=pg)


def _are_threads(pg: ProcessGroup) -> bool:
    return backend_of(pg) == "simulated"


def drawn_number(group: str) -> int:
    """A number of 63 bits from torch's generator on the CPU: rank 0's, the same on every rank. Collective.

    Every rank's generator moves on by one draw, as on one machine; ranks that are threads have one between them, unless
    they take turns (``run_ranks(own_random=True)``).
    """
    pg = resolve(group)
    shared = pg is not None and _are_threads(pg) and not getattr(pg, "own_random", False)
    draws = not shared or group_rank(group) == 0
    mine = int(torch.randint((1 << 63) - 1, ()).item()) if draws else 0
    return (
        mine if pg is None else all_gather_numbers([mine], torch.device(device_of_numbers(pg)), group)[0][0]
    )


@dataclass
class ByteCounter:
    """Bytes this rank sent to other ranks: ``halo_bytes`` in halo syncs and reduces, ``reduce_bytes`` in
    all-reduces (as a ring sends them: 2 (k - 1) / k of the tensor)."""

    halo_bytes: int = 0
    reduce_bytes: int = 0

    @property
    def total(self) -> int:
        return self.halo_bytes + self.reduce_bytes


_COUNTERS: ContextVar[tuple[ByteCounter, ...]] = ContextVar("graphshard_byte_counters", default=())


@contextmanager
def count_bytes() -> Iterator[ByteCounter]:
    """Count what this rank sends inside the block, forward and backward; blocks nest.

    Counts the calling thread's exchanges. On CPU a backward runs on the thread that calls it and is counted;
    a CUDA backward runs on autograd's own threads and is not. Simulated ranks each open their own block.
    """
    counter = ByteCounter()
    token = _COUNTERS.set((*_COUNTERS.get(), counter))
    try:
        yield counter
    finally:
        _COUNTERS.reset(token)


def _count_rows(rows: Tensor, splits: Sequence[int], pg: ProcessGroup) -> None:
    counters = _COUNTERS.get()
    if counters:
        sent = sum(splits) - splits[pg.rank()]
        row_bytes = rows[:1].numel() * rows.element_size() if sent else 0
        for counter in counters:
            counter.halo_bytes += sent * row_bytes


def count_all_reduce(x: Tensor, pg: ProcessGroup) -> None:
    for counter in _COUNTERS.get():
        counter.reduce_bytes += 2 * (pg.size() - 1) * x.numel() * x.element_size() // pg.size()


def _wire(rows: Tensor) -> Tensor:
    """Contiguous ``rows`` as the backends take them: [rows, values] of a dtype they know. Shares memory."""
    flat = rows.view(rows.size(0), math.prod(rows.shape[1:]))
    return flat if flat.dtype in _SENT_AS_IS else flat.view(torch.uint8)


def exchange(
    out: Tensor, rows: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str
) -> None:
    """Send ``rows`` (contiguous, grouped by receiver) and fill ``out`` (contiguous, grouped by sender).

    Args:
        out: ``[sum(recv_splits), ...]``, written in place.
        rows: ``[sum(send_splits), ...]``, of out's dtype.
        send_splits, recv_splits: rows to, and from, each rank. For ``""`` the rows come back.
    """
    start_exchange(out, rows, send_splits, recv_splits, group)()


def start_exchange(
    out: Tensor, rows: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str
) -> Callable[[], None]:
    """Begin an :func:`exchange`; call what is returned before ``out`` is read."""
    pg = resolve(group)
    if pg is None:
        out.copy_(rows)
        return lambda: None
    _count_rows(rows, send_splits, pg)
    sent = _wire(rows)
    work = dist.all_to_all_single(
        _wire(out), sent, list(recv_splits), list(send_splits), group=pg, async_op=True
    )

    def wait() -> None:
        assert sent is not None  # kept until it is sent
        work.wait()

    return wait
