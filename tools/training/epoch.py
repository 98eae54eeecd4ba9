"""One epoch of training, as it is shown, written and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One step and what came of it; the same on every rank.

    Attributes:
        number: 1 is the first.
        loss: of the training nodes, before the step.
        accuracy: after the step, in eval mode, of each split that has nodes; none where forward returns the
            loss itself.
        halo_bytes: sent by all ranks in halo exchanges of the step, forward and backward.
        reduce_bytes: the same in all-reduces: gradients, loss, batch statistics.
        seconds: of the step on the slowest rank, evaluation not counted.
    """

    number: int
    loss: float
    accuracy: Mapping[str, float]
    halo_bytes: int
    reduce_bytes: int
    seconds: float


Listener = Callable[[Epoch], None]
"""Called after each epoch."""
