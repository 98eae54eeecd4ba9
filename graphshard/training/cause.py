"""What the first difference between ranks and one machine may come from, as a sentence that says what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graphshard.check.report import Row
from graphshard.training.record import Event

_MEAN = "graphshard.mean(F.cross_entropy(..., reduction='none'))"
_CLOSE = 1e-6


def likely_cause(row: Row, known: Event, found: Sequence[Event], before: Sequence[Event] | None) -> str:
    """A sentence on where a difference may come from.

    Args:
        row: the first value that differs.
        known: the single machine's event.
        found: each rank's event.
        before: each rank's event before, if there was one.
    """
    for look in (_other_numbers_drawn, _not_optimised, _other_shape, _wrong_number, _wrong_gradient):
        said: str | None = look(row, known, found, before)
        if said is not None:
            return said
    return _otherwise(row, found)


def _other_numbers_drawn(
    row: Row, known: Event, found: Sequence[Event], before: Sequence[Event] | None
) -> str | None:
    """The ranks' generators stand elsewhere."""
    if row.kind in ("optimised", "weight"):
        return None
    for events in (before, found):
        for name in found[0].random if events is not None else ():
            assert events is not None
            other = [r for r, event in enumerate(events) if event.random.get(name) != events[0].random[name]]
            if other:
                return (
                    f"{name} random numbers differ between rank 0 and rank {other[0]}: seed every rank alike before "
                    "the first draw, and draw as many numbers on each (for the whole graph, not for a rank's own rows)"
                )
    other_name = next((n for n in known.random if found[0].random.get(n) != known.random[n]), None)
    if other_name is not None and found[0].random.get(other_name) is not None:
        return (
            f"a rank draws other {other_name} random numbers than one machine: draw for the whole graph, and take "
            "the rows of the rank with shard.scatter(rows, 'node')"
        )
    return None


def _not_optimised(
    row: Row, _known: Event, found: Sequence[Event], _before: Sequence[Event] | None
) -> str | None:
    if row.kind != "optimised":
        return None
    without = [r for r, event in enumerate(found) if ("optimised", row.name) not in event.values]
    if not without:
        return f"the ranks' {found[0].what} steps a parameter that one machine's does not: give it the same parameters"
    ranks = ", ".join(map(str, without))
    return (
        f"the {found[0].what} of rank {ranks} does not step this parameter: give the optimiser of every rank the same "
        "parameters, chosen by what is equal on all ranks"
    )


def _other_shape(
    row: Row, known: Event, found: Sequence[Event], _before: Sequence[Event] | None
) -> str | None:
    key = (row.kind, row.name)
    value = known.values.get(key)
    theirs = [event.values[key].value for event in found if key in event.values]
    if value is None or not theirs or all(t.shape == value.value.shape for t in theirs):
        return None
    rows = [t.size(0) for t in theirs if t.dim()]
    if value.value.dim() and sum(rows) == value.value.size(0):
        return "each rank has the rows of its own nodes: bring them together with shard.gather(rows)"
    return "the ranks have another number of rows than one machine: rows of a rank's own nodes are among them"


def _wrong_number(
    row: Row, known: Event, found: Sequence[Event], _before: Sequence[Event] | None
) -> str | None:
    key = (row.kind, row.name)
    if row.kind not in ("loss", "metric", "printed") or key not in known.values:
        return None
    values = [event.values[key].value for event in found if key in event.values]
    expected = known.values[key].value
    if expected.numel() != 1 or not values:
        return None
    numbers, right = [float(v) for v in values], float(expected)
    said = f"one machine has {right:.6g}, rank " + ", rank ".join(
        f"{r} {n:.6g}" for r, n in enumerate(numbers)
    )
    what = "the loss" if row.kind == "loss" else "the value"
    if len(numbers) == len(found) and all(_close(n, numbers[0]) for n in numbers):
        return f"{_same_everywhere(what, numbers[0], right, len(found))} ({said})"
    return f"{_of_own_rows(what, numbers, right)} ({said})"


def _same_everywhere(what: str, number: float, right: float, ranks: int) -> str:
    if _close(number, ranks * right):
        return (
            f"{what} is {ranks} times too large: it is summed over the ranks, but each of them has all of it"
        )
    if _close(number * ranks, right):
        return f"{what} is divided by the number of ranks: a mean over the ranks, where each has one term of a sum"
    return (
        f"{what} is equal on all ranks but another than one machine's: a mean of the ranks' means is not the mean of "
        f"all rows where ranks have different numbers of them; use graphshard.mean, as in {_MEAN}"
    )


def _of_own_rows(what: str, numbers: Sequence[float], right: float) -> str:
    if _close(math.fsum(numbers), right):
        return f"{what} is the sum over a rank's own rows: use graphshard.sum"
    if _close(max(numbers), right) or _close(min(numbers), right):
        return f"{what} is right on some ranks only: it is of a rank's own rows; shard.gather(rows) brings all together"
    if min(numbers) <= right <= max(numbers):
        return f"{what} is the mean of a rank's own rows: use graphshard.mean, as in {_MEAN}"
    return (
        f"{what} is of a rank's own rows: use graphshard.mean or graphshard.sum of a value for each row, or bring the "
        "rows together with shard.gather(rows)"
    )


def _wrong_gradient(
    row: Row, known: Event, found: Sequence[Event], _before: Sequence[Event] | None
) -> str | None:
    key = (row.kind, row.name)
    if row.kind != "gradient" or not all(key in event.values for event in (known, *found)):
        return None
    expected = known.values[key].value
    values = [event.values[key].value for event in found]
    if known.values[key].ids is not None or any(v.shape != expected.shape for v in values):
        return None
    ranks = len(found)
    if all(_near(v, values[0], expected) for v in values):
        return _equal_gradients(values[0], expected, ranks)
    if _near(torch.stack(values).sum(0), expected, expected):
        return (
            "each rank has the part of its own rows: the parameter is used outside of the distributed module; use it "
            "inside of forward, where gradients are summed over the ranks"
        )
    return (
        "the ranks have different gradients of one parameter: it is used outside of the distributed module, or the "
        f"loss is each rank's own; compute it inside of forward, or from all rows: {_MEAN}"
    )


def _equal_gradients(value: Tensor, expected: Tensor, ranks: int) -> str:
    if _near(value, expected * ranks, expected):
        return (
            f"gradients are {ranks} times too large: graphshard sums them over the ranks already; take out an "
            "all-reduce or DistributedDataParallel of yours, and differentiate a loss that is global (graphshard.mean)"
        )
    if _near(value * ranks, expected, expected):
        return (
            f"gradients are {ranks} times too small: something divides by the number of ranks, as an average of "
            "gradients does, or graphshard.mean of a value that every rank has whole"
        )
    return (
        "the loss is right but its gradient is not: a part of it is cut off on the ranks (detach, .item(), .data, a "
        "collective without a derivative), or the mean is one of means; a gradient clipped by a norm of a rank's own "
        "rows is another one"
    )


def _otherwise(row: Row, found: Sequence[Event]) -> str:
    texts = {
        "weight": "its gradient is right: the optimisers of the ranks differ (learning rate, weight decay, state), or "
        "something other than the optimiser writes to it",
        "buffer": "something outside of forward writes to it, or it counts what a rank has of its own",
    }
    missing = [r for r, event in enumerate(found) if (row.kind, row.name) not in event.values]
    if missing:
        ranks = ", ".join(map(str, missing))
        return f"rank {ranks} does not have it: what a rank does must not depend on its number"
    local = "it depends on what a rank has of its own: use graphshard.mean, graphshard.sum or shard.gather"
    return texts.get(row.kind, local)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_CLOSE, abs_tol=1e-12)


def _near(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    size = float(scale.abs().max()) if scale.numel() else 0.0
    return bool(((a - b).abs() <= _CLOSE * size).all())
