"""See what a training loop does without a change to it: what it differentiates, and what its optimisers step."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from graphshard.api import DistributedModule
from graphshard.check.compare import by_key
from graphshard.check.probe import Value
from graphshard.private.torch_backward import watched_backward
from graphshard.shard.placed import plain
from graphshard.training.record import INTERRUPTED, RETURNED, Event, Record, metrics_of

NOISE = 1e-12
"""Below this share of the largest gradient an element in float64 is rounding, which is zero on paper."""


class Observer:
    """What one rank does, as a record.

    Args:
        modules: name -> those whose parameters are to be called by their names; ``""`` for no prefix.
        on_event: called after each optimiser's step with the number of events so far.
    """

    def __init__(
        self, modules: Callable[[], dict[str, nn.Module]], on_event: Callable[[int], None] | None = None
    ) -> None:
        self.record, self.step = Record(), 0
        self._modules, self._on_event = modules, on_event
        self._losses: list[Tensor] = []

    def differentiated(self, tensor: Tensor) -> None:
        """A script called ``backward`` of a tensor."""
        self._losses.append(plain(tensor).detach().clone())

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimiser has made its step; gradients are as it found them."""
        modules = self._modules()
        values = self._seen_losses()
        for name, parameter, ids in _parameters(optimizer, modules):
            values.append(Value("optimised", name, torch.ones(())))
            if parameter.grad is not None:
                values.append(Value("gradient", name, _plain(parameter.grad), ids))
            values.append(Value("weight", name, _plain(parameter), ids))
        self._add(type(optimizer).__name__, values + _buffers(modules))
        if self._on_event is not None:
            self._on_event(len(self.record.events))

    def returned(self, result: Any) -> None:
        """The user's step is over: what it returned, and every weight, also those that no optimiser has."""
        modules = self._modules()
        weights = [
            Value("weight", prefix + name, _plain(parameter), _row_ids(module, name))
            for prefix, module in modules.items()
            for name, parameter in module.named_parameters()
        ]
        self._add(RETURNED, self._seen_losses() + weights + _buffers(modules) + list(metrics_of(result)))

    def interrupted(self) -> None:
        """An error ended the run: what was seen since the last event is an event of its own."""
        self._add(INTERRUPTED, self._seen_losses())

    def _seen_losses(self) -> list[Value]:
        losses, self._losses = self._losses, []
        names = [f"backward {i}" for i in range(1, len(losses) + 1)] if len(losses) > 1 else ["backward"]
        return [Value("loss", name, loss) for name, loss in zip(names, losses, strict=False)]

    def _add(self, what: str, values: list[Value]) -> None:
        step = self.step or len(self.record.events) + 1
        self.record.events.append(Event(step, what, by_key(values), random_digests()))


_OBSERVER: ContextVar[Observer | None] = ContextVar("graphshard_training_observer", default=None)


@contextmanager
def observed(observer: Observer) -> Iterator[Observer]:
    """In this thread, inside the block, what happens is the observer's; within :func:`watching`."""
    token = _OBSERVER.set(observer)
    try:
        yield observer
    finally:
        _OBSERVER.reset(token)


@contextmanager
def watching() -> Iterator[None]:
    """Inside the block, every optimiser and every backward of this process tells its thread's observer."""
    hooks = [
        register_optimizer_step_pre_hook(_before_step),
        register_optimizer_step_post_hook(_after_step),
    ]
    try:
        with watched_backward(_on_backward):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _on_backward(tensor: Tensor) -> None:
    if (observer := _OBSERVER.get()) is not None:
        observer.differentiated(tensor)


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    if _OBSERVER.get() is not None:
        silence_noise([p.grad for group in optimizer.param_groups for p in group["params"]])


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    if (observer := _OBSERVER.get()) is not None:
        observer.stepped(optimizer)


@torch.no_grad()
def silence_noise(gradients: list[Tensor | None]) -> None:
    """Set to zero, in place, what is zero on paper: in float64 less than 1e-12 of the largest gradient.

    A bias before a batch norm has a gradient of rounding noise. Adam divides it by its own size, and would make steps
    of full length in a direction that no two orders of summation agree on.
    """
    # Of a node parameter's gradient each rank looks at its own rows.
    exact = [
        g for g in map(plain, gradients) if g is not None and g.dtype is torch.float64 and not g.is_sparse
    ]
    largest = max((float(g.abs().max()) for g in exact if g.numel()), default=0.0)
    for gradient in exact:
        gradient[gradient.abs() < NOISE * largest] = 0.0


def _plain(tensor: Tensor) -> Tensor:
    copied: Tensor = plain(tensor).detach().clone()
    return copied.to_dense() if copied.is_sparse else copied


def _row_ids(module: nn.Module, name: str) -> Tensor | None:
    return module.row_ids(name) if isinstance(module, DistributedModule) else None


def _parameters(
    optimizer: Optimizer, modules: dict[str, nn.Module]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(name, parameter, global ids of its rows) of all that an optimiser steps."""
    known = {
        id(p): (prefix + name, _row_ids(module, name))
        for prefix, module in reversed(modules.items())
        for name, p in module.named_parameters()
    }
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            nameless = f"parameter {place} of group {number} of {type(optimizer).__name__}"
            name, ids = known.get(id(parameter), (nameless, None))
            yield name, parameter, ids


def _buffers(modules: dict[str, nn.Module]) -> list[Value]:
    return [
        Value("buffer", prefix + name, _plain(buffer))
        for prefix, module in modules.items()
        for name, buffer in module.named_buffers()
    ]


def random_digests() -> dict[str, int]:
    """Where the generators stand, as a number each: of Python, NumPy (if it is imported) and PyTorch."""
    found = {"PyTorch's": zlib.crc32(torch.get_rng_state().numpy().tobytes())}
    found["Python's"] = zlib.crc32(repr(random.getstate()).encode())
    if numpy := sys.modules.get("numpy"):
        kind, keys, *rest = numpy.random.get_state()
        found["NumPy's"] = zlib.crc32(repr((kind, keys.tobytes(), rest)).encode())
    return found


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's (if it is imported) and PyTorch's generators."""
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
