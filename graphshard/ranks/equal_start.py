"""Ranks start equal: parameters and buffers become rank 0's, in few messages and without a second copy of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.ranks.checksums import as_bytes
from graphshard.ranks.groups import broadcast_first, group_rank

_MESSAGE = 25 * 2**20  # bytes, as DDP's


@dataclass(frozen=True)
class _Part:
    """Some bytes of a tensor: ``content``, from byte ``start`` on."""

    tensor: Tensor
    start: int
    content: Tensor

    def write(self, content: Tensor) -> None:
        """Put other bytes in their place; nothing is written where they are equal."""
        if torch.equal(self.content, content):
            return
        whole = as_bytes(self.tensor)
        whole[self.start : self.start + content.numel()] = content
        if whole.data_ptr() != self.tensor.data_ptr():  # a copy: the tensor is not contiguous
            self.tensor.copy_(whole.view(self.tensor.dtype).view(self.tensor.shape))


@torch.no_grad()
def become_first(tensors: Iterable[Tensor], group: str) -> None:
    """Give every rank the values that rank 0 has, in place; what is equal is not written. Collective.

    Args:
        tensors: strided, of the same shapes and dtypes in the same order on every rank.
        group: the process group's name.
    """
    for message in _messages(tensors):
        sent = torch.cat([part.content for part in message])
        broadcast_first(sent, group)
        if group_rank(group) != 0:
            contents = sent.split_with_sizes([part.content.numel() for part in message])
            for part, content in zip(message, contents, strict=True):
                part.write(content)


@torch.no_grad()
def rows_of_first(whole: Tensor, ids: Tensor, group: str) -> Iterator[tuple[slice, Tensor]]:
    """Rank 0's rows of the given numbers, a part of the table at a time. Collective.

    Args:
        whole: ``[N, ...]`` on every rank, of which only rank 0's values are used.
        ids: int64, ascending, on the device on which rows travel: which this rank wants.
        group: the process group's name.

    Yields:
        A slice of ``ids`` and the rows that it names; together all of them.
    """
    row_bytes = max(1, whole[:1].numel() * whole.element_size())
    for start in range(0, whole.size(0), step := max(1, _MESSAGE // row_bytes)):
        rows = whole[start : start + step]
        sent = as_bytes(rows).to(ids.device, copy=True)
        broadcast_first(sent, group)
        bounds = torch.tensor([start, start + rows.size(0)], device=ids.device)
        low, high = torch.searchsorted(ids, bounds).tolist()
        found = sent.view(whole.dtype).view(rows.shape)
        yield slice(low, high), found[ids[low:high] - start]


def _messages(tensors: Iterable[Tensor]) -> Iterator[list[_Part]]:
    """The bytes of all tensors, as much as goes into one message at a time; one device a message."""
    message: list[_Part] = []
    free = _MESSAGE
    for tensor in tensors:
        content, start = as_bytes(tensor), 0
        if message and message[0].tensor.device != tensor.device:
            yield message
            message, free = [], _MESSAGE
        while start < content.numel():
            part = _Part(tensor, start, content[start : start + free])
            message.append(part)
            start, free = start + part.content.numel(), free - part.content.numel()
            if free == 0:
                yield message
                message, free = [], _MESSAGE
    if message:
        yield message
