"""From the ranks' differences to the rows of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from graphshard.check.compare import Difference, Key, scale_of
from graphshard.check.probe import SECOND, Value
from graphshard.check.report import Row

FLOOR = 1e-4
"""The smallest scale of a value, relative to the largest of its kind."""


def report_rows(
    label: str,
    reference: Mapping[Key, Value],
    found: Sequence[Mapping[Key, Difference]],
    allowed: Callable[[Key, float], float],
) -> list[Row]:
    """One row for each value that any rank or the single machine has."""
    largest: dict[str, float] = {}
    for (kind, _), known in reference.items():
        largest[kind] = max(largest.get(kind, 0.0), scale_of(known.value))
    rows = []
    for key in dict.fromkeys([*reference, *(k for ranks in found for k in ranks)]):
        parts = [ranks[key] for ranks in found if key in ranks]
        value = reference.get(key)
        scale = max(scale_of(value.value) if value else 0.0, FLOOR * largest.get(key[0], 0.0))
        difference = max((p.largest for p in parts), default=float("inf"))
        problem = next((p.problem for p in parts if p.problem and p.largest), None)
        counted = sum(p.rows for p in parts)
        if missing := _missing_rows(key, value, counted) or _nothing_proved(key, value):
            difference, problem = float("inf"), missing
        relative = difference / scale if scale else difference
        rounding = 16 * _unit(value.value) if value is not None else 0.0
        tolerance = allowed(key, scale) + rounding
        rows.append(Row(label, *key, difference, relative, scale, tolerance, counted, problem))
    return rows


def _missing_rows(key: Key, value: Value | None, counted: int) -> str | None:
    """Whether some row of the single machine is on no rank (halo rows are on several)."""
    if value is None or value.ids is None or key[0] == "halo sync":
        return None
    expected = value.ids.numel()
    return None if counted == expected else f"{counted} rows on all ranks, not {expected}"


def _nothing_proved(key: Key, value: Value | None) -> str | None:
    """Whether the reference has no number to compare with: NaN against NaN is equal, and proves nothing.

    A buffer, or what is exchanged (the maximum of no row), may well be infinite.
    """
    if value is None or not value.value.numel() or not value.value.is_floating_point():
        return None
    if bool(value.value.isnan().all()):
        return "is NaN everywhere on one machine: nothing was proved"
    numbers = key[0].removesuffix(SECOND) in ("output", "gradient", "input gradient")
    if numbers and not bool(value.value.isfinite().any()):
        return "has no finite value on one machine: nothing was proved"
    return None


def _unit(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
