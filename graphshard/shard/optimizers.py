"""Optimisers over node parameters: a step works on rows that know what they are of, or is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from graphshard.errors import ShardError, UnsupportedOperation
from graphshard.shard.own_rows import OwnRows, RowsParameter, in_step
from graphshard.shard.placed import plain

_NUMBERS = count()
_OF_ALL_AT_ONCE = ("LBFGS", "Adafactor", "Muon")


class StepWatch(Protocol):
    """What is told of the steps of every optimiser of this process."""

    def before_step(self, optimizer: Optimizer) -> None: ...
    def after_step(self, optimizer: Optimizer) -> None: ...


def watch_steps(watch: StepWatch) -> None:
    """Tell it of every step, for as long as it lives."""
    _watches()[next(_NUMBERS)] = watch


@cache
def _watches() -> weakref.WeakValueDictionary[int, StepWatch]:
    """Those that live, in order, told by one pair of hooks that stays.

    A hook for each would have to be removed when its watch is collected, which may be while torch goes through the
    hooks: that ends a step with an error.
    """
    living: weakref.WeakValueDictionary[int, StepWatch] = weakref.WeakValueDictionary()

    def begins(optimizer: Optimizer, *_: Any) -> None:
        for watch in list(living.values()):
            watch.before_step(optimizer)

    def ends(optimizer: Optimizer, *_: Any) -> None:
        for watch in list(living.values()):
            watch.after_step(optimizer)

    register_optimizer_step_pre_hook(begins)
    register_optimizer_step_post_hook(ends)
    return living


class OptimizerWatch:
    """Looks at every optimiser that makes a step, for as long as it lives.

    Args:
        whole: ``state_dict`` key -> the user's Parameter with all rows.
    """

    def __init__(self, whole: dict[str, nn.Parameter]) -> None:
        self._whole = [(name, weakref.ref(parameter)) for name, parameter in whole.items()]
        watch_steps(self)

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimiser makes a step: refuse it, or let it have the rows."""
        self.check(optimizer)
        _begin(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimiser has made a step."""
        _end(optimizer)

    def check(self, optimizer: Optimizer) -> None:
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
        kinds = tuple(getattr(torch.optim, name) for name in _OF_ALL_AT_ONCE if hasattr(torch.optim, name))
        if isinstance(optimizer, kinds) and next(_node_parameters(optimizer), None) is not None:
            name = type(optimizer).__name__
            raise UnsupportedOperation(
                f"{name} computes with all numbers of a parameter at once, and of node parameters a rank has its own "
                f"rows alone: give {name} the other parameters, and the node parameters an optimiser that works "
                "element by element"
            )


def _node_parameters(optimizer: Optimizer) -> Iterator[RowsParameter]:
    for group in optimizer.param_groups:
        yield from (p for p in group["params"] if isinstance(p, RowsParameter))


def _begin(optimizer: Optimizer) -> None:
    """From here on the rows and their moments are an optimiser's."""
    for parameter in _node_parameters(optimizer):
        parameter.in_step = True
        shape = parameter.local().shape
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and not isinstance(value, OwnRows) and value.shape == shape:
                state[name] = in_step(value, parameter)


def _end(optimizer: Optimizer) -> None:
    """The moments are plain rows again, which files and copies take."""
    for parameter in _node_parameters(optimizer):
        parameter.in_step = False
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            state[name] = plain(value)
