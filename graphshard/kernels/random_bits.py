"""Random numbers by counter (SplitMix64): a function of seed, step, call site and row, on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed int64
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_STEP = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, the golden ratio in 64 bits


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).

    In place on an int64 tensor; products wrap around as they do for unsigned numbers.
    """
    z ^= (z >> 30) & ((1 << 34) - 1)
    z *= _MIX_1
    z ^= (z >> 27) & ((1 << 37) - 1)
    z *= _MIX_2
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


def random_key(seed: int, step: int) -> Tensor:
    """The key of all random numbers of a step: int64 ``[2]`` on the CPU, as ops take it.

    Seeds are unsigned in PyTorch; one bit less fits an int64 tensor, whose products wrap around.
    """
    return torch.tensor([seed & ((1 << 63) - 1), step])


def random_start(key: Sequence[int], site: int) -> int:
    """Where the random numbers of a call site start in a step: a signed int64, added to what tells rows apart."""
    seed, step = key
    part = torch.tensor([seed, site], dtype=torch.int64) * _STEP
    return int(_mix(_mix(part[:1] + step) + part[1:]).item())


def random_bits(ids: Tensor, width: int, key: Sequence[int], site: int) -> Tensor:
    """53 random bits for each element: a function of seed, step, call site and global row id alone.

    Args:
        ids: int64 ``[rows]``; a number for each row that is the same on any number of ranks.
        width: how many elements a row has.
        key: ``(seed, step)``: the numbers of a :func:`random_key`.
        site: which random op of the program it is.

    Returns:
        int64 ``[rows, width]`` in 0..2**53-1, as NumPy and PyTorch take them for a float64 in [0, 1).
    """
    rows = _mix(ids * _STEP + random_start(key, site))
    columns = torch.arange(1, width + 1, dtype=torch.int64, device=ids.device) * _STEP
    return (_mix(rows.unsqueeze(1) + columns) >> 11) & ((1 << 53) - 1)
