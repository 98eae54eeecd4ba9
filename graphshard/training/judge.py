"""Compare the records of ranks with the single machine's, event by event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor

from graphshard.check.compare import Key, compare, scale_of
from graphshard.check.probe import Value
from graphshard.check.report import Row
from graphshard.check.rows import report_rows
from graphshard.check.verify import EXACT
from graphshard.training.cause import likely_cause
from graphshard.training.record import INTERRUPTED, KINDS, RETURNED, Event, Record

COARSE = 1e-4
"""How far values may be off, relative to their scale, where something is computed in less than float64."""
_UNSURE = 1e-7
_WORDS = {RETURNED: "the step ends"}
_APART = (
    "the ranks decide by numbers of their own when to stop or what to step: decide by numbers that every rank has, as "
    "graphshard.mean and graphshard.sum give"
)
# Each number with a scale of its own; of tensors a small one is measured by the largest of its kind.
_NUMBERS = frozenset({"loss", "optimised", "metric", "printed"})


@dataclass(frozen=True)
class Judgement:
    """What a comparison of records found.

    Attributes:
        rows: one for each value of each event.
        cause: of the first that differs.
        steps: how many were compared.
        dtype: the coarsest floating dtype of the weights.
    """

    rows: list[Row]
    cause: str | None
    steps: int
    dtype: str


def judge(reference: Record, ranks: Sequence[Record], *, ended: bool = False) -> Judgement:
    """Compare every rank's events with the single machine's, in order.

    Args:
        reference: the single machine's.
        ranks: each rank's, in order.
        ended: whether a rank failed: then steps that are missing are no difference of their own.
    """
    dtype = _dtype(reference)
    unsure = _Unsure()
    rows: list[Row] = []
    cause: str | None = None
    compared = 0
    before: list[Event] | None = None
    for known, *found in zip(reference.events, *(rank.events for rank in ranks), strict=False):
        if (apart := _other_events(known, found)) is not None:
            rows.append(apart)
            cause = cause or _APART
            return Judgement(rows, cause, compared, str(dtype).removeprefix("torch."))
        unsure.look_at(known, found)
        mine = _event_rows(unsure.of(known), [unsure.of(event) for event in found], dtype)
        rows += mine
        failed = next((row for row in mine if not row.passed), None)
        if cause is None and failed is not None:
            cause = likely_cause(failed, known, found, before)
        compared, before = known.step, found
    if not ended and (missing := _lengths(reference, ranks)) is not None:
        rows.append(missing)
        cause = cause or _APART
    return Judgement(rows, cause, compared, str(dtype).removeprefix("torch."))


def _event_rows(known: Event, found: Sequence[Event], dtype: torch.dtype) -> list[Row]:
    rows = []
    for whole, ranks in _comparable(known, found):
        reference = _numbered(whole, ranks)
        differences = [compare(list(values.values()), reference) for values in ranks]
        rows += report_rows(known.label, reference, differences, _allowed(known, dtype))
    return rows


def _numbered(known: dict[Key, Value], found: Sequence[Mapping[Key, Value]]) -> dict[Key, Value]:
    """Where ranks have rows with global ids, the single machine's whole tensor with the ids of all rows."""
    split = {key for values in found for key, value in values.items() if value.ids is not None}
    return {
        key: replace(value, ids=torch.arange(value.value.size(0)))
        if key in split and value.value.dim()
        else value
        for key, value in known.items()
    }


def _other_events(known: Event, found: Sequence[Event]) -> Row | None:
    """A row that fails where a rank does something else than one machine, as another optimiser's step."""
    for rank, event in enumerate(found):
        if event.what not in (known.what, INTERRUPTED):
            problem = f"do not fit: {_WORDS.get(known.what, known.what + ' steps')} on one machine, but on rank {rank} "
            problem += _WORDS.get(event.what, event.what + " steps")
            return Row(known.label, "optimiser steps", "", inf, inf, 1.0, 0.0, 0, problem)
    return None


def _until(found: Sequence[Event]) -> set[Key] | None:
    """Where an error ended a rank's run, the losses that all ranks had seen; None where none ended."""
    if all(event.what != INTERRUPTED for event in found):
        return None
    seen = [{key for key in event.values if key[0] == "loss"} for event in found]
    return set.intersection(*seen)


def _comparable(
    known: Event, found: Sequence[Event]
) -> Iterator[tuple[dict[Key, Value], list[dict[Key, Value]]]]:
    """The values of each kind, of numbers each alone: the single machine's, and each rank's."""
    everything = [known.values, *(event.values for event in found)]
    if (until := _until(found)) is not None:
        everything = [{key: v for key, v in values.items() if key in until} for values in everything]
    for kind in KINDS:
        keys = [key for key in dict.fromkeys(k for values in everything for k in values) if key[0] == kind]
        for group in [[key] for key in keys] if kind in _NUMBERS else [keys]:
            picked = [{k: values[k] for k in group if k in values} for values in everything]
            if kind == "printed":  # only the first rank need print
                picked[1:] = [values for values in picked[1:] if values]
            if any(picked):
                yield picked[0], picked[1:]


def _allowed(known: Event, dtype: torch.dtype) -> Callable[[Key, float], float]:
    bound = EXACT if dtype is torch.float64 else COARSE

    def allowed(key: Key, scale: float) -> float:
        if key[0] != "printed" or key[1] not in known.places or not scale:
            return bound
        return max(bound, 1.01 * 10.0 ** -known.places[key[1]] / scale)  # it was rounded when it was printed

    return allowed


def _dtype(record: Record) -> torch.dtype:
    """The coarsest floating dtype of a weight; float64 where there is none."""
    seen = {
        value.value.dtype
        for event in record.events
        for value in event.values.values()
        if value.kind in ("weight", "loss") and value.value.is_floating_point()
    }
    return max(seen or {torch.float64}, key=lambda dtype: torch.finfo(dtype).eps)


def _lengths(reference: Record, ranks: Sequence[Record]) -> Row | None:
    """A row that fails where runs have different numbers of events."""
    lengths = [len(record.events) for record in ranks]
    expected = len(reference.events)
    if set(lengths) == {expected}:
        return None
    steps = ", ".join(f"{length} on rank {rank}" for rank, length in enumerate(lengths))
    far = float(max(abs(length - expected) for length in lengths))
    label = f"step {min(expected, *lengths) + 1}"
    return Row(
        label,
        "optimiser steps",
        "",
        far,
        float("inf"),
        1.0,
        0.0,
        0,
        f"are {expected} on one machine, but {steps}",
    )


@dataclass
class _Unsure:
    """Elements of weights that nobody knows to 1e-9: rounding is more than 1e-9 of the gradient that moved them.

    An optimiser that divides a gradient by its size (Adam) makes a step of full length of 1e-8 of the largest gradient,
    of which the last half of the digits is rounding. These elements hardly move the loss; its value and the gradients
    are compared all the same.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)

    def look_at(self, known: Event, found: Sequence[Event]) -> None:
        """Note the elements whose gradient is tiny, but not zero, on the single machine or on a rank."""
        gradients = {name: v for (kind, name), v in known.values.items() if kind == "gradient"}
        bound = _UNSURE * max((scale_of(v.value) for v in gradients.values()), default=0.0)
        for name, value in gradients.items():
            mask = _tiny(value.value, bound)
            for event in found:
                theirs = event.values.get(("gradient", name))
                if theirs is not None and theirs.ids is None and theirs.value.shape == mask.shape:
                    mask = mask | (_tiny(theirs.value, bound) & (value.value.abs() < bound))
            if mask.any():
                self.masks[name] = self.masks.get(name, torch.zeros_like(mask)) | mask

    def of(self, event: Event) -> Event:
        """The event with zeros in the place of what nobody knows."""
        changed = {
            ("weight", name): self._without(event.values["weight", name], mask)
            for name, mask in self.masks.items()
            if ("weight", name) in event.values
        }
        return replace(event, values={**event.values, **changed}) if changed else event

    @staticmethod
    def _without(value: Value, mask: Tensor) -> Value:
        if value.ids is not None:
            mask = mask[value.ids]
        if mask.shape != value.value.shape:
            return value
        return replace(value, value=value.value.masked_fill(mask, 0.0))


def _tiny(gradient: Tensor, bound: float) -> Tensor:
    size = gradient.abs()
    return (size > 0) & (size < bound)
