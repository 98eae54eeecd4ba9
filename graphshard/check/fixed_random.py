"""Models and programs without dropout and with fixed random numbers, so that one can be compared with the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from graphshard.execute.run import Compiled
from graphshard.ops import dropout
from graphshard.ops import local as local_ops
from graphshard.private.torch_functions import TorchDispatchMode

aten = torch.ops.aten


class _NoDropout(TorchFunctionMode):
    """``F.dropout`` and ``torch.dropout`` as the identity."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.nn.functional.dropout, torch.dropout):
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class _FixedNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Random ops as if every uniform number were 0.5 and every normal one 0."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is aten.rrelu_with_noise.default and len(args) > 4 and args[4]:
            x, slopes, lower, upper = args[:4]
            slopes.copy_(torch.where(x <= 0, lower + _UNIFORM * (upper - lower), 1.0))  # read by its backward
            return result.copy_(x * slopes)
        fixed = _FIXED.get(func)
        return result if fixed is None else result.copy_(torch.as_tensor(fixed(*args)))


_FIXED: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.rand.default, aten.rand_like.default), lambda *_: _UNIFORM),
    **dict.fromkeys((aten.randn.default, aten.randn_like.default), lambda *_: 0.0),
    aten.bernoulli.default: lambda x, *_: x > _UNIFORM,
    aten.bernoulli_.float: lambda _x, p=0.5, *_: p > _UNIFORM,
    aten.exponential_.default: lambda _x, rate=1.0, *_: -math.log1p(-_UNIFORM) / rate,
    aten.uniform_.default: lambda _x, low=0.0, high=1.0, *_: low + _UNIFORM * (high - low),
    aten.normal_.default: lambda _x, mean=0.0, *_: mean,
    aten.randint_like.default: lambda _x, high, *_: math.floor(_UNIFORM * high),
    aten.randint_like.low_dtype: lambda _x, low, high, *_: low + math.floor(_UNIFORM * (high - low)),
}
"""What the ops behind PyTorch's random functions give in place of their numbers."""

_UNIFORM = 0.5


@contextmanager
def without_dropout() -> Iterator[None]:
    """Run eager modules as if every dropout had p = 0, and with fixed random numbers."""
    with _NoDropout(), _FixedNumbers():  # type: ignore[no-untyped-call]
        yield


def drop_dropout(compiled: Compiled) -> Compiled:
    """The same program without dropout and with fixed random numbers; see :func:`without_dropout`."""
    stages = list(compiled.stages)
    program = stages[-1].program.copy()
    for node in program.graph.nodes:
        if node.target is dropout.dropout_rows:
            node.replace_all_uses_with(node.args[0])
        elif node.target in dropout.WITHOUT_DROPOUT:
            node.target, node.args = dropout.WITHOUT_DROPOUT[node.target], node.args[:1]
        elif node.target is local_ops.random_like:
            fixed = 0.0 if node.args[3] == "normal" else _UNIFORM
            with program.graph.inserting_before(node):
                constant = program.graph.call_function(
                    torch.ops.aten.full_like.default, (node.args[0], fixed)
                )
            node.replace_all_uses_with(constant)
    program.graph.eliminate_dead_code()
    program.module.recompile()
    stages[-1] = type(stages[-1])(stages[-1].name, stages[-1].edits, program)
    return replace(compiled, stages=stages)
