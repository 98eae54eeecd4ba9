"""Floats as integers of the same order: a maximum over ranks that keeps NaN, on every backend.

gloo and NCCL let a NaN win or lose by the order of ranks (their maximum is ``a < b ? b : a``); integers have none.
"""

from __future__ import annotations

import torch
from torch import Tensor

_KEYS = {torch.float64: torch.int64, torch.float32: torch.int32}


def order_keys(x: Tensor, reduce: str) -> Tensor:
    """Integers in the order of the floats in ``x``: int64 for float64, int32 for any other floating dtype.

    IEEE 754 numbers compare as their bits do, those below 0 the other way round. A NaN becomes the largest
    integer of its kind for ``reduce="max"`` and the smallest for "min".
    """
    wide = x if x.dtype in _KEYS else x.float()
    nan = torch.full_like(wide, torch.nan)
    sign = torch.full_like(wide, 1.0 if reduce == "max" else -1.0)
    wide = torch.where(wide.isnan(), torch.copysign(nan, sign), wide)
    return _flip_negative(wide.view(_KEYS[wide.dtype]))


def from_order_keys(keys: Tensor) -> Tensor:
    """The float64 or float32 numbers that the keys stand for."""
    return _flip_negative(keys).view(torch.float64 if keys.dtype == torch.int64 else torch.float32)


def _flip_negative(bits: Tensor) -> Tensor:
    """All bits but the sign, turned around where the sign is set; its own inverse."""
    info = torch.iinfo(bits.dtype)
    return bits ^ ((bits >> (info.bits - 1)) & info.max)
