"""Notices that parameters were written to by something else than an optimiser's step: the ranks then compare them.

::

    optimizer.step()                  the same on every rank, for the gradients are
    model.conv.reset_parameters()     drawn on each rank: compared at the next call, where one that differs is named
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from graphshard.private.torch_tensors import version_of
from graphshard.shard.optimizers import watch_steps


class Written:
    """Of the parameters of one distributed module.

    A tensor counts how often it was written to. What an optimiser adds to the counts is taken off again.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, int]] = {}
        self._otherwise = False
        watch_steps(self)

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimiser is about to write: what was written until now was something else."""
        if self._holds(optimizer):
            self._otherwise |= self._now() != self._seen

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimiser has written."""
        if self._holds(optimizer):
            self._seen = self._now()

    def since_last(self, parameters: Iterable[Tensor]) -> bool:
        """Whether any was written to since this was asked last, by something else than an optimiser's step."""
        seen, now = self._seen, {id(p): (p, version_of(p)) for p in parameters}
        known = {key: now[key] for key in seen if key in now}
        found = self._otherwise or any(seen[key][1] != version for key, (_, version) in known.items())
        self._seen, self._otherwise = now, False
        return found and bool(seen)

    def _holds(self, optimizer: Optimizer) -> bool:
        return any(id(p) in self._seen for group in optimizer.param_groups for p in group["params"])

    def _now(self) -> dict[int, tuple[Tensor, int]]:
        return {key: (tensor, version_of(tensor)) for key, (tensor, _) in self._seen.items()}
