"""Tensors as bytes, and as short numbers that differ where the bytes do."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from graphshard.private.torch_functions import WithoutTorchFunction
from graphshard.private.torch_tensors import Seen, entries_of

_CHUNK = 1 << 20
_MASK = (1 << 64) - 1
_SUMMED, _SAMPLED, _RUN = 1 << 22, 1 << 13, 1 << 6


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a strided tensor, ``uint8 [b]``, in the order of its rows; its own memory if that is contiguous."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.contiguous().view(-1).view(torch.uint8)


def _parts(tensor: Tensor) -> list[Tensor]:
    """Strided tensors that hold all of a tensor's content; of a subclass what this rank has in memory."""
    if tensor.layout is torch.strided:
        return [_memory(tensor)]
    return list(entries_of(tensor.detach().to_sparse_coo()))  # type: ignore[no-untyped-call]


def _memory(tensor: Tensor) -> Tensor:
    """A strided tensor of no subclass."""
    with WithoutTorchFunction():
        return tensor.as_subclass(Tensor)


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


def quick_checksum(tensor: Tensor) -> Tensor:
    """``int64 [3]``: one :func:`checksum` of 8,192 elements spread over the tensor, and a sum of all of up to 4 MiB.

    It takes some 50 microseconds, whatever the size. Sees every single write into a tensor of up to 4 MiB; into a
    larger one, writes that reach one of the elements. Those stand in runs, so that of a file that holds the tensor
    few pages have to be there.
    """
    found = torch.zeros(3, dtype=torch.int64, device=tensor.device)
    for part in _parts(tensor):
        plain = part.detach().resolve_conj().resolve_neg()
        plain = (
            plain if plain.is_contiguous() else plain.reshape(-1) if _few(plain) else plain[:: _step(plain)]
        )
        flat = plain.reshape(-1)
        total = flat.new_zeros((), dtype=torch.int64)
        if _few(flat):
            content = as_bytes(flat)
            whole = content.numel() // 8 * 8
            total = content[:whole].view(torch.int64).sum() + content[whole:].sum()
        found = found * 31 + torch.cat([checksum(_sample(flat)), total.view(1)])
    return found


def _sample(flat: Tensor) -> Tensor:
    """8,192 elements, or all of fewer."""
    apart = flat.numel() // (_SAMPLED // _RUN)
    if apart <= _RUN:
        return flat
    return flat[: apart * (_SAMPLED // _RUN)].view(-1, apart)[:, :_RUN]


def _few(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= _SUMMED


def _step(tensor: Tensor) -> int:
    """Between entries of dim 0, so that few elements are left."""
    kept = max(_SAMPLED * tensor.size(0) // max(tensor.numel(), 1), 1)
    return max(tensor.size(0) // kept, 1)


def words_of(sums: Iterable[int]) -> tuple[str, ...]:
    """The numbers of a :func:`checksum` as 16 hexadecimal digits each."""
    return tuple(f"{number & _MASK:016x}" for number in sums)


class Contents:
    """Checksums of named tensors, each made once for as long as its tensor stays as it is.

    A write through ``x.data`` or NumPy, which PyTorch does not count, is noticed by a quick checksum.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Seen, list[int], tuple[str, ...]]] = {}

    def of(self, name: str, tensor: Tensor) -> tuple[str, ...]:
        """The :func:`words_of` the tensor that has this name now."""
        known, quick = self._known.get(name), quick_checksum(tensor.detach()).tolist()
        if known is None or not known[0].is_still(tensor) or known[1] != quick:
            words = words_of(checksum(tensor.detach()).tolist())
            # Of what was computed with a gradient the memory alone is held, not how it was computed.
            seen = Seen.now(tensor.detach() if tensor.requires_grad else tensor)
            known = self._known[name] = seen, quick, words
        return known[2]

    def keep(self, names: Collection[str]) -> None:
        """Let go of the tensors of all other names."""
        self._known = {name: known for name, known in self._known.items() if name in names}


def digest_of(named: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of names, dtypes, shapes and contents, for all that is not secret: 32 hexadecimal digits."""
    found = Digest()
    for name, given in named:
        tensor = _memory(given) if given.layout is torch.strided else given
        parts = (as_bytes(part).cpu().numpy().data for part in _parts(tensor))
        found.add(name, tensor.dtype, tensor.shape, parts)
    return found.text


class Digest:
    """The :func:`digest_of` tensors that need not be in memory as a whole."""

    def __init__(self) -> None:
        self._found = hashlib.blake2b(digest_size=16)

    def add(self, name: str, dtype: torch.dtype, shape: Iterable[int], content: Iterable[Any]) -> None:
        """Add a tensor; ``content``: its bytes, in pieces."""
        self._found.update(f"{name}\0{dtype}\0{list(shape)}\0".encode())
        for piece in content:
            self._found.update(piece)

    @property
    def text(self) -> str:
        """32 hexadecimal digits."""
        return self._found.hexdigest()
