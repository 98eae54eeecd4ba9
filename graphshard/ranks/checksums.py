"""Tensors as bytes, and as short numbers that differ where the bytes do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from graphshard.private.torch_tensors import entries_of

_CHUNK = 1 << 20


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a strided tensor, ``uint8 [b]``, in the order of its rows; its own memory if that is contiguous."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.contiguous().view(-1).view(torch.uint8)


def _parts(tensor: Tensor) -> list[Tensor]:
    """Strided tensors that hold all of a tensor's content."""
    if tensor.layout is torch.strided:
        return [tensor]
    return list(entries_of(tensor.detach().to_sparse_coo()))  # type: ignore[no-untyped-call]


def checksum(tensor: Tensor) -> Tensor:
    """``int64 [2]`` on the tensor's device: a sum of its bits, and one weighted by position.

    Integers that wrap: the same bits give the same numbers in whatever order a device adds.
    """
    total = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for part in _parts(tensor):
        content = as_bytes(part)
        width = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(part.element_size())
        words = content if width is None else content.view(width)
        for start in range(0, words.numel(), _CHUNK):
            chunk = words[start : start + _CHUNK].to(torch.int64)
            # Prefix sums weigh a word by its place, the product a chunk by its own: exchanged words are seen.
            total = total * 31 + torch.stack([chunk.sum(), chunk.cumsum(0).sum()])
    return total


def digest_of(named: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of names, dtypes, shapes and contents, for all that is not secret: 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in named:
        found.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        for part in _parts(tensor):
            found.update(as_bytes(part).cpu().numpy().data)
    return found.hexdigest()
