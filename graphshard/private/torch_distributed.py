"""Process groups: by name, by backend, and written in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import (
    Work,
    _register_process_group,
    _resolve_process_group,
    _unregister_process_group,
)
from torch.futures import Future

__all__ = [
    "PythonGroup",
    "backend_of",
    "process_group",
    "registered",
    "sends_device_tensors",
]


def process_group(name: str) -> dist.ProcessGroup:
    """The group that is registered under a name in this process.

    Relies on ``torch._C._distributed_c10d._resolve_process_group``, which raises RuntimeError or ValueError where there
    is none.

    Raises:
        LookupError: there is none.
    """
    try:
        return _resolve_process_group(name)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise LookupError(name) from error


@contextmanager
def registered(groups: Mapping[str, dist.ProcessGroup]) -> Iterator[None]:
    """Inside the block, torch finds these groups under their names.

    Relies on ``_register_process_group`` and ``_unregister_process_group`` of ``torch._C._distributed_c10d``.
    """
    for name, group in groups.items():
        _register_process_group(name, group)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in groups:
            _unregister_process_group(name)  # type: ignore[arg-type]


def backend_of(group: dist.ProcessGroup) -> str:
    """The backend of a group, as it calls itself. ``dist.get_backend`` does not know groups written in Python.

    Relies on ``ProcessGroup.name()``, which is ``getBackendName()`` of one that is written in Python.
    """
    return group.name()


def sends_device_tensors(group: dist.ProcessGroup) -> bool:
    """Whether a group sends tensors of a GPU only: NCCL's. Relies on what :func:`backend_of` does."""
    return "nccl" in backend_of(group)


class _Done(Work):
    """The handle of a collective that is over when the call returns."""

    def wait(self, timeout: Any = None) -> bool:  # noqa: ARG002 (torch's signature)
        return True

    def get_future(self) -> Future[None]:
        future: Future[None] = Future()
        future.set_result(None)
        return future


class PythonGroup(dist.ProcessGroup):
    """A process group whose collectives are written in Python, and are over when they return.

    A subclass writes ``exchange``, ``reduce_all``, ``gather_all``, ``send_first`` and ``meet``. Other collectives raise
    torch's own error.

    Relies on ``torch.distributed``'s functions calling methods of ``ProcessGroup`` by these names, with these
    arguments: ``alltoall_base`` and ``_allgather_base`` until torch 2.12, ``all_to_all_single`` and
    ``all_gather_single`` since 2.13; ``allreduce``, ``allgather``, ``broadcast``, ``barrier`` in all. And on
    ``getBackendName`` and ``group_name`` being asked of a subclass.

    Args:
        rank, size: this rank's number, and how many there are.
        name: under which the group may be registered.
        backend: what :func:`backend_of` says of it.
    """

    def __init__(self, rank: int, size: int, name: str, backend: str) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self._name, self._backend = name, backend

    def exchange(
        self, output: Tensor, input: Tensor, output_splits: Sequence[int], input_splits: Sequence[int]
    ) -> None:
        """Send ``input`` in pieces of these rows, one to each rank, and fill ``output`` with what comes."""
        raise NotImplementedError

    def reduce_all(self, tensor: Tensor, op: Any) -> None:
        """Write over ``tensor`` what a ``dist.ReduceOp`` makes of every rank's."""
        raise NotImplementedError

    def gather_all(self, name: str, tensor: Tensor) -> list[Tensor]:
        """Every rank's ``tensor``, in rank order; ``name`` is the collective's, for messages."""
        raise NotImplementedError

    def send_first(self, tensor: Tensor, root: int) -> None:
        """Write over ``tensor`` the one of rank ``root``."""
        raise NotImplementedError

    def meet(self) -> None:
        """Wait for every rank."""
        raise NotImplementedError

    def getBackendName(self) -> str:  # noqa: N802 (torch's name)
        return self._backend

    @property
    def group_name(self) -> str:  # type: ignore[override]
        return self._name

    def alltoall_base(
        self,
        output: Tensor,
        input: Tensor,
        output_splits: Sequence[int],
        input_splits: Sequence[int],
        *_: Any,
    ) -> Work:
        received, sent = (
            list(splits) or [tensor.size(0) // self.size()] * self.size()
            for tensor, splits in ((output, output_splits), (input, input_splits))
        )
        self.exchange(output, input, received, sent)
        return _Done()

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        for tensor in tensors:
            self.reduce_all(tensor, dist.ReduceOp.SUM if opts is None else opts.reduceOp)
        return _Done()

    def allgather(  # type: ignore[override]
        self, outputs: list[list[Tensor]], inputs: list[Tensor], *_: Any
    ) -> Work:
        for slots, tensor in zip(outputs, inputs, strict=True):
            for slot, part in zip(slots, self.gather_all("all_gather", tensor), strict=True):
                slot.detach().copy_(part)
        return _Done()

    def _allgather_base(self, output: Tensor, input: Tensor, *_: Any) -> Work:
        parts = self.gather_all("all_gather_into_tensor", input)
        output.detach().copy_(torch.cat([part.reshape(-1) for part in parts]).view_as(output))
        return _Done()

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        for tensor in tensors:
            self.send_first(tensor, 0 if opts is None else opts.rootRank)
        return _Done()

    def barrier(self, *_: Any, **__: Any) -> Work:
        self.meet()
        return _Done()

    # torch >= 2.13 calls two of them by other names.
    all_to_all_single = alltoall_base  # type: ignore[assignment]
    all_gather_single = _allgather_base  # type: ignore[assignment]
