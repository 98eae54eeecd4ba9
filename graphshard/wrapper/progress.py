"""What forward and the other captured methods of one distributed module count together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """How far a distributed module has come.

    Attributes:
        seed: of the random numbers; None until the first call settles it.
        step: how many training-mode calls there were, of forward and of every captured method.
        equal: whether the ranks hold the same parameters: since the first call.
    """

    seed: int | None
    step: int = 0
    equal: bool = False
