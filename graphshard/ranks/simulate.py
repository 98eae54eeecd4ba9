"""Simulated ranks: a thread per rank in one process, with the real ops over a process group in memory.

::

    rank 0   all_reduce f32[3] --+                  +--> result
                                 +-- meeting: same -+
    rank 1   all_reduce f32[3] --+   call on all?   +--> result      no: RuntimeMismatch names both calls

A collective is a meeting of all ranks: each brings the call it makes and its data, and the last to come
compares the calls. So "all ranks run the same sequence of collectives" is checked at each one, and a rank
that returns while another still communicates is an error, not a hang. Reductions add in rank order: the
same bits on every rank and in every run.
"""

from __future__ import annotations

import contextvars
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import GraphshardError, RuntimeMismatch
from graphshard.private.torch_distributed import PythonGroup, registered
from graphshard.private.torch_threads import ready_for_threads
from graphshard.ranks.groups import default_is
from graphshard.ranks.turns import Turns

__all__ = ["SimulatedGroup", "run_ranks"]

T = TypeVar("T")

_RETURN = "return from its function"


class _ReleasedError(GraphshardError):
    """Another rank failed; this one is let go. Never the error that the caller sees."""


@dataclass
class _Meeting:
    """Where the ranks of one run meet, once per collective."""

    size: int
    deadline: float
    condition: threading.Condition = field(default_factory=threading.Condition)
    calls: dict[int, str] = field(default_factory=dict)
    brought: dict[int, Any] = field(default_factory=dict)
    taken: dict[int, Any] = field(default_factory=dict)
    held: int = 0
    failed: bool = False
    turns: Turns | None = None

    def meet(self, rank: int, call: str, data: Any) -> dict[int, Any]:
        """Wait for all ranks; what each brought. Safe to read after: ranks bring data nobody writes to."""
        with nullcontext() if self.turns is None else self.turns.left():
            return self._meet(rank, call, data)

    def _meet(self, rank: int, call: str, data: Any) -> dict[int, Any]:
        with self.condition:
            self._refuse_if_failed()
            self.calls[rank], self.brought[rank] = call, data
            if len(self.calls) == self.size:
                return self._close()
            number = self.held
            while self.held == number:
                self._refuse_if_failed()
                if not self.condition.wait(self.deadline - time.monotonic()) and self.held == number:
                    self._time_out(rank, call)
            # Not overwritten yet: the next meeting closes only after this rank has come to it.
            return self.taken

    def fail(self) -> None:
        """Release every rank that waits, and every one that comes later."""
        with self.condition:
            self.failed = True
            self.condition.notify_all()

    def _refuse_if_failed(self) -> None:
        if self.failed:
            raise _ReleasedError("another rank failed")

    def _close(self) -> dict[int, Any]:
        first = self.calls[0]
        for rank in range(1, self.size):
            if self.calls[rank] != first:
                raise RuntimeMismatch(
                    f"the ranks run different collectives: collective {self.held} is {first} on rank 0 "
                    f"but {self.calls[rank]} on rank {rank}"
                )
        self.taken, self.brought, self.calls = self.brought, {}, {}
        self.held += 1
        self.condition.notify_all()
        return self.taken

    def _time_out(self, rank: int, call: str) -> None:
        missing = [r for r in range(self.size) if r not in self.calls]
        raise RuntimeMismatch(
            f"timed out: rank {rank} waits in collective {self.held} ({call}), rank(s) {missing} did not come"
        )


def _describe(name: str, tensor: Tensor, *, rows: bool = False) -> str:
    """The call, as text that is equal where two calls fit together; ``rows`` may differ between ranks."""
    shape = ["*", *tensor.shape[1:]] if rows else list(tensor.shape)
    return f"{name}({str(tensor.dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}])"


_REDUCTIONS: list[tuple[Any, str, Callable[[Tensor, Tensor], Tensor]]] = [
    (dist.ReduceOp.SUM, "sum", torch.add),
    (dist.ReduceOp.AVG, "avg", torch.add),
    (dist.ReduceOp.MAX, "max", torch.maximum),
    (dist.ReduceOp.MIN, "min", torch.minimum),
]


def _reduction(wanted: Any) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
    """The name of torch's reduction, and the step that takes one more rank's term."""
    for op, name, combine in _REDUCTIONS:
        if wanted == op:  # in this order: torch's enum does not know the object it is given
            return name, combine
    raise GraphshardError(f"simulated ranks know sum, avg, max and min, not {wanted}")


class SimulatedGroup(PythonGroup):
    """One rank's handle of a simulated group: all-to-all, all-reduce, all-gather, broadcast and barrier.

    `torch.distributed`'s functions take it as ``group=``. Other collectives raise torch's own error.
    """

    def __init__(self, rank: int, size: int, name: str, meeting: _Meeting) -> None:
        super().__init__(rank, size, name, "simulated")
        self._rank, self._size, self._meeting = rank, size, meeting

    @property
    def own_random(self) -> bool:
        """Whether each rank has random generators of its own."""
        return self._meeting.turns is not None

    def _meet(self, call: str, data: Any) -> list[Any]:
        brought = self._meeting.meet(self._rank, call, data)
        return [brought[rank] for rank in range(self._size)]

    def exchange(
        self, output: Tensor, input: Tensor, output_splits: Sequence[int], input_splits: Sequence[int]
    ) -> None:
        sent = input.detach().clone().split_with_sizes(list(input_splits))
        received = [
            parts[self._rank] for parts in self._meet(_describe("all_to_all", input, rows=True), sent)
        ]
        for source, (part, rows) in enumerate(zip(received, output_splits, strict=True)):
            if part.size(0) != rows:
                raise RuntimeMismatch(
                    f"in an all_to_all, rank {source} sends {part.size(0)} rows to rank {self._rank}, "
                    f"which expects {rows}"
                )
        output.detach().copy_(torch.cat(received))

    def reduce_all(self, tensor: Tensor, op: Any) -> None:
        name, combine = _reduction(op)
        total = reduce(combine, self._meet(_describe(f"all_reduce_{name}", tensor), tensor.detach().clone()))
        tensor.detach().copy_(total / self._size if name == "avg" else total)

    def gather_all(self, name: str, tensor: Tensor) -> list[Tensor]:
        return self._meet(_describe(name, tensor), tensor.detach().clone())

    def send_first(self, tensor: Tensor, root: int) -> None:
        call = _describe(f"broadcast_from_{root}", tensor)
        tensor.detach().copy_(self._meet(call, tensor.detach().clone())[root])

    def meet(self) -> None:
        self._meet("barrier()", None)


@contextmanager
def _registered(size: int, meeting: _Meeting) -> Iterator[list[SimulatedGroup]]:
    """The ranks' handles, found by torch under names of their own while the block runs."""
    run = uuid.uuid4().hex
    groups = [SimulatedGroup(rank, size, f"simulated-{run}-{rank}", meeting) for rank in range(size)]
    with registered({group.group_name: group for group in groups}):
        yield groups


def run_ranks(
    world_size: int,
    fn: Callable[[int, str, dist.ProcessGroup], T],
    *,
    timeout: float = 60.0,
    own_random: bool = False,
) -> list[T]:
    """What ``graphshard.testing.run_ranks`` does, with the results as they are.

    A thread per rank; a single rank runs in the caller's own. On the CPU: a backward on a GPU runs on one thread for
    all ranks, which would wait for each other there.
    """
    if world_size < 1:
        raise GraphshardError(f"a run needs at least one rank, not {world_size}")
    turns = Turns() if own_random else None
    meeting = _Meeting(world_size, time.monotonic() + timeout, turns=turns)
    outcomes: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    record_gradients = torch.is_grad_enabled()

    def run(group: SimulatedGroup) -> None:
        rank = group.rank()
        try:
            with torch.set_grad_enabled(record_gradients), _alone(turns), default_is(group.group_name):
                outcome = fn(rank, group.group_name, group)
                meeting.meet(rank, _RETURN, None)
            outcomes[rank] = outcome
        except BaseException as error:  # skipped tests and interrupts too: the caller handles them
            errors[rank] = error
            meeting.fail()

    with _registered(world_size, meeting) as groups:
        if world_size == 1:
            run(groups[0])
        stuck = _run_threads(run, groups, meeting) if world_size > 1 else []
    if turns is not None:
        turns.end()
    if own := sorted(rank for rank, error in errors.items() if not isinstance(error, _ReleasedError)):
        errors[own[0]].add_note(f"raised on simulated rank {own[0]} of {world_size}")
        raise errors[own[0]]
    if stuck:
        raise RuntimeMismatch(f"timed out: rank(s) {stuck} of {world_size} still run")
    return [outcomes[rank] for rank in range(world_size)]


def _alone(turns: Turns | None) -> AbstractContextManager[None]:
    return nullcontext() if turns is None else turns.taken()


def _run_threads(
    run: Callable[[SimulatedGroup], None], groups: Sequence[SimulatedGroup], meeting: _Meeting
) -> list[int]:
    """Run every rank in a thread. Returns the ranks that never ended, which are left behind as daemons."""
    ready_for_threads()
    contexts = [contextvars.copy_context() for _ in groups]
    threads = [
        threading.Thread(target=context.run, args=(run, group), daemon=True)
        for context, group in zip(contexts, groups, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        # The ranks that wait notice the deadline themselves and say more: give them a moment to.
        for thread in threads:
            thread.join(max(0.0, meeting.deadline - time.monotonic()) + 0.2)
    finally:
        meeting.fail()
    return [rank for rank, thread in enumerate(threads) if thread.is_alive()]
