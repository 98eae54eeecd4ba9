"""What stands in the place of custom ``autograd.Function``s in a captured program: a table, of explicit calls only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import CaptureError, GraphshardError
from graphshard.private import pytree
from graphshard.private.torch_functions import bound_apply, function_apply, replaced_apply

__all__ = ["REPLACED", "replace", "replaced_functions"]

REPLACED: dict[type, Callable[..., Any]] = {}
"""What :func:`replace` was told, by the Function."""


def replace(function: type[torch.autograd.Function], equivalent: Callable[..., Any]) -> None:
    """Say which differentiable computation a custom ``autograd.Function`` is, so that models with it can be captured.

    A custom backward cannot be captured. Where plain PyTorch computes the same values and gradients, the program runs
    that instead: a Function that saves memory, or one that is the identity on one machine. It is not believed: each
    time a model is captured, values and gradients of both are compared where the model applies the Function.

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


def check_equivalent(function: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Compare a Function with its equivalent on the arguments of one call: values, and gradients of every argument.

    Raises:
        CaptureError: they differ.
    """
    theirs = _evaluated(bound_apply(function_apply(), function), args, kwargs)
    ours = _evaluated(REPLACED[function], args, kwargs)
    for what, expected in theirs.items():
        got = ours.get(what)
        if got is None or not _close(got, expected):
            raise CaptureError(
                f"what graphshard.replace() put in the place of {function.__name__} does not compute the same: {what} "
                "differs"
            )


def _evaluated(run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The results by number, and the gradient of each floating argument, for a cotangent of distinct numbers."""
    leaves, structure = pytree.tree_flatten((tuple(args), dict(kwargs)))
    own = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    floats = {
        i: t.requires_grad_() for i, t in enumerate(own) if isinstance(t, Tensor) and t.is_floating_point()
    }
    with torch.enable_grad():
        # Not the leaves themselves, which may be written to.
        given, named = pytree.tree_unflatten(
            [t * 1 if i in floats else t for i, t in enumerate(own)], structure
        )
        results = [r for r in pytree.tree_leaves(run(*given, **named)) if isinstance(r, Tensor)]
        terms = [(r * _weights(r)).sum() for r in results if r.requires_grad]
    found = {f"result {i}": r.detach() for i, r in enumerate(results)}
    if terms and floats:
        grads = torch.autograd.grad(torch.stack(terms).sum(), list(floats.values()), allow_unused=True)
        for (i, leaf), grad in zip(floats.items(), grads, strict=True):
            found[f"the gradient of argument {i}"] = torch.zeros_like(leaf) if grad is None else grad
    return found


def _weights(result: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype, device=result.device).view(
        result.shape
    )


def _close(got: Tensor, expected: Tensor) -> bool:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    return bool(torch.allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True))


@contextmanager
def replaced_functions() -> Iterator[None]:
    """While a model is exported: the equivalents in the place of the Functions that have one."""
    apply = function_apply()

    def equivalent(cls: type, *args: Any, **kwargs: Any) -> Any:
        return REPLACED.get(cls, bound_apply(apply, cls))(*args, **kwargs)

    with replaced_apply(classmethod(equivalent)):
        yield
