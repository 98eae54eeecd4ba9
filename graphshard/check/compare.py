"""Compare one rank's values with the single machine's, row by row, by global id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.check.probe import SECOND, Value

Key = tuple[str, str]

_EXPECTED = frozenset(
    {"output", "gradient", "input gradient", "buffer", "loss", "optimised", "weight", "metric", "printed"}
)
"""The kinds of values that every rank has, if the single machine does."""


@dataclass(frozen=True)
class Difference:
    """How far one rank's part of a value is from the reference.

    Attributes:
        largest: the largest absolute difference; NaN against a number, or another shape or dtype, is inf.
        rows: how many rows were compared (the whole tensor counts as one where it is not sharded).
        problem: what is wrong beyond a difference of numbers, if anything.
    """

    largest: float
    rows: int
    problem: str | None = None


def scale_of(tensor: Tensor) -> float:
    """The largest finite magnitude; 0 where there is none."""
    if not tensor.numel():
        return 0.0
    return float(tensor.detach().double().abs().nan_to_num(0.0, 0.0, 0.0).max())


def by_key(values: Sequence[Value]) -> dict[Key, Value]:
    return {(v.kind, v.name): v for v in values}


def compare(mine: Sequence[Value], reference: Mapping[Key, Value]) -> dict[Key, Difference]:
    """One rank's values against the reference's rows of the same ids.

    A value that only one of them has is a difference of its own: a gradient that nothing computed.
    """
    found = {key: _difference(v, reference.get(key)) for key, v in by_key(mine).items()}
    for key in reference.keys() - found.keys():
        if key[0].removesuffix(SECOND) in _EXPECTED:
            found[key] = _absent(reference[key], "missing on this rank")
    return found


def _absent(value: Value, problem: str) -> Difference:
    """An absent gradient is a zero one: not a difference if the other is zero too."""
    return Difference(0.0 if not scale_of(value.value) else float("inf"), 0, problem)


def _difference(mine: Value, reference: Value | None) -> Difference:
    if reference is None:
        return _absent(mine, "not on the single machine")
    expected, got = reference.value, mine.value
    rows = 1
    if mine.ids is not None:
        if reference.ids is None:
            return Difference(float("inf"), 0, "sharded here, whole on the single machine")
        order = reference.ids.argsort()
        place = torch.searchsorted(reference.ids[order], mine.ids)
        known = place.clamp(max=max(order.numel() - 1, 0))
        if mine.ids.numel() and not torch.equal(reference.ids[order][known], mine.ids):
            return Difference(float("inf"), 0, "rows that the single machine does not have")
        expected = expected.index_select(mine.dim, order[known])
        rows = int(mine.ids.numel())
    if expected.shape != got.shape:
        return Difference(float("inf"), rows, f"shape {list(got.shape)}, not {list(expected.shape)}")
    if expected.dtype != got.dtype and expected.is_floating_point() != got.is_floating_point():
        return Difference(float("inf"), rows, f"{got.dtype}, not {expected.dtype}")
    return Difference(largest_difference(got, expected), rows)


def largest_difference(got: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; equal infinities and NaN against NaN are no difference."""
    if not got.numel():
        return 0.0
    a, b = got.double(), expected.double()
    if not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    distance = torch.where((a == b) | a.isnan(), torch.zeros_like(a), (a - b).abs())
    return float(distance.max())
