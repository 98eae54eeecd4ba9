"""What stands in the place of custom ``autograd.Function``s in a captured program: a table, of explicit calls only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from graphshard.errors import GraphshardError

__all__ = ["REPLACED", "replace", "replaced_functions"]

REPLACED: dict[type, Callable[..., Any]] = {}
"""What :func:`replace` was told, by the Function."""


def replace(function: type[torch.autograd.Function], equivalent: Callable[..., Any]) -> None:
    """Say which differentiable computation a custom ``autograd.Function`` is, so that models with it can be captured.

    A custom backward cannot be captured. Where plain PyTorch computes the same values and gradients, the program runs
    that instead: a Function that saves memory, or one that is the identity on one machine. It is not believed: each
    time a model is captured, values and gradients are compared with the module, which runs the Function itself.

    Args:
        function: the class whose ``apply`` the model calls. Subclasses are not meant with it.
        equivalent: takes what ``function.apply`` takes and returns what it returns, made of differentiable ops.

    Raises:
        GraphshardError: ``function`` is no ``autograd.Function``, or ``equivalent`` cannot be called.

    Example:
        >>> import torch, graphshard
        >>> class Double(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         return x * 2
        ...     @staticmethod
        ...     def backward(ctx, grad):
        ...         return grad * 2
        >>> graphshard.replace(Double, lambda x: x * 2)
    """
    if not (isinstance(function, type) and issubclass(function, torch.autograd.Function)):
        raise GraphshardError(f"replace() takes a subclass of torch.autograd.Function, not {function!r}")
    if not callable(equivalent):
        raise GraphshardError(f"replace() takes a function that computes the same, not {equivalent!r}")
    REPLACED[function] = equivalent


def function_apply() -> Any:
    """``autograd.Function.apply`` before it is bound to a class.

    A classmethod of Python, or (since torch 2.14) one of C, which has no ``__func__``: both bind to a class.
    """
    return inspect.getattr_static(torch.autograd.Function, "apply")


@contextmanager
def replaced_functions() -> Iterator[None]:
    """While a model is exported: the equivalents in the place of the Functions that have one."""
    apply = function_apply()

    def equivalent(cls: type, *args: Any, **kwargs: Any) -> Any:
        return REPLACED.get(cls, apply.__get__(None, cls))(*args, **kwargs)

    with mock.patch.object(torch.autograd.Function, "apply", classmethod(equivalent)):
        yield
