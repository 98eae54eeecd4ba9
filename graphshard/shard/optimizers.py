"""Optimisers that would not do over node parameters what they do on one machine are stopped at their first step."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from graphshard.errors import ShardError, UnsupportedOperation


class OptimizerWatch:
    """Looks at every optimiser that makes a step, for as long as it lives.

    Args:
        whole: ``state_dict`` key -> the user's Parameter with all rows.
        own: the Parameters with this rank's rows.
        ranks: how many ranks there are.
    """

    def __init__(self, whole: dict[str, nn.Parameter], own: Iterable[nn.Parameter], ranks: int) -> None:
        self._whole = [(name, weakref.ref(parameter)) for name, parameter in whole.items()]
        self._own = [weakref.ref(parameter) for parameter in own]
        self._ranks = ranks
        self_reference = weakref.ref(self)

        def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if (watch := self_reference()) is not None:
                watch.check(optimizer)

        handle = register_optimizer_step_pre_hook(before_step)
        weakref.finalize(self, handle.remove)

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimiser that holds a whole table, or that needs all rows at once.

        Raises:
            ShardError: it was made before ``distribute``.
            UnsupportedOperation: it mixes the rows.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, reference in self._whole:
            whole = reference()
            # One that trains the user's module by itself has a gradient there.
            if whole is not None and id(whole) in held and whole.grad is None:
                raise ShardError(
                    f"the optimiser holds the whole node parameter {name!r}, of which the distributed module has "
                    "rows of its own: make the optimiser after distribute(), of the distributed module's parameters()"
                )
        own = [p for reference in self._own if (p := reference()) is not None and id(p) in held]
        if own and self._ranks > 1 and isinstance(optimizer, torch.optim.LBFGS):
            raise UnsupportedOperation(
                "LBFGS takes products of all parameters at once, and of node parameters a rank has its own rows alone: "
                "give LBFGS the other parameters, and the node parameters an optimiser that works element by element"
            )
