"""What one rank, or the single machine, did in a training run: a list of events with values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphshard.check.compare import Key
from graphshard.check.probe import Value
from graphshard.shard.placed import PlacedTensor, plain

KINDS = ("loss", "optimised", "gradient", "weight", "buffer", "metric", "printed")
"""Of values, in the order in which one leads to the next."""

INTERRUPTED = "interrupted"
RETURNED = "returned"


@dataclass(frozen=True)
class Event:
    """An optimiser's step, or the end of a step of the user's.

    Attributes:
        step: the user's step, or of a script the number of the optimiser's step; 1 is the first.
        what: the optimiser's class, as ``"Adam"``; or ``"returned"``; or ``"interrupted"`` by an error.
        values: what there was to see, by kind and name.
        places: decimal places of the printed numbers, by name.
        random: digests of the generators by name: two ranks with equal ones draw equal numbers.
    """

    step: int
    what: str
    values: Mapping[Key, Value]
    random: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """``step 2``, as reports say it."""
        return f"step {self.step}"


@dataclass
class Record:
    """One run of the user's loop on one rank.

    Attributes:
        events: in their order.
        is_random: whether the model draws random numbers.
    """

    events: list[Event] = field(default_factory=list)
    is_random: bool = False

    def as_plain(self) -> dict[str, Any]:
        """Of tensors, numbers and strings alone, as ``torch.load`` takes it with ``weights_only``."""
        return {"is_random": self.is_random, "events": [_plain_event(event) for event in self.events]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Record:
        """The record that :meth:`as_plain` wrote."""
        events = [
            Event(step, what, {(v[0], v[1]): Value(*v) for v in values}, random, places)
            for step, what, values, random, places in plain["events"]
        ]
        return cls(events, plain["is_random"])


def _plain_event(event: Event) -> tuple[Any, ...]:
    values = [(v.kind, v.name, v.value, v.ids, v.dim) for v in event.values.values()]
    return event.step, event.what, values, dict(event.random), dict(event.places)


def metrics_of(returned: Any, name: str = "") -> Iterator[Value]:
    """What a step returns, as values: numbers and tensors, also in dicts, lists, tuples and objects with fields.

    Strings, None and what is no number are left out.
    """
    if isinstance(returned, Mapping):
        for key, value in returned.items():
            yield from metrics_of(value, f"{name}.{key}" if name else str(key))
    elif isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        for number, value in enumerate(returned):
            yield from metrics_of(value, f"{name}[{number}]")
    elif (tensor := _as_tensor(returned)) is not None:
        yield Value("metric", name or "returned", tensor)


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, PlacedTensor):  # what a step returns it returns on every rank: all gather
        value = plain(value.shard.gather(value))
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, bool | int | float) or hasattr(value, "__array__"):
        try:
            return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        except (TypeError, ValueError):
            return None
    return None
