"""Functions of torch: custom ``autograd.Function``s, functions of C that can be replaced, modes of dispatch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "FOREACH_ELEMENT",
    "SPARSE_MM",
    "BelowAutograd",
    "Draws",
    "TorchDispatchMode",
    "WithoutTorchFunction",
    "bound_apply",
    "foreach_norm",
    "function_apply",
    "function_name",
    "has_backward_of_its_own",
    "in_transform",
    "is_of_library_op",
    "outside_of_tracing",
    "replaced_apply",
    "replaced_losses",
    "same_kind_of_memory",
]

SPARSE_MM = "_sparse_mm"
"""The ``__name__`` of what ``__torch_function__`` is given for ``torch.sparse.mm``."""


BelowAutograd = torch._C._AutoDispatchBelowAutograd
"""A context inside of which ops run their kernels, or a tracer's, and not what is registered for ``Autograd``."""


WithoutTorchFunction = torch._C.DisableTorchFunctionSubclass
"""A context inside of which functions of torch do not ask subclasses of Tensor, by ``__torch_function__``."""

outside_of_tracing = _disable_current_modes
"""A context inside of which ops on real tensors compute, though a tracer's mode is on around it."""

foreach_norm = torch._foreach_norm
"""What ``clip_grad_norm_`` calls for the norms of several gradients."""

_ELEMENT_NAMES = (
    *(
        "abs",
        "add",
        "addcdiv",
        "addcmul",
        "ceil",
        "clamp_max",
        "clamp_min",
        "clone",
        "copy",
        "cos",
        "cosh",
        "div",
    ),
    *(
        "erf",
        "erfc",
        "exp",
        "expm1",
        "floor",
        "frac",
        "lerp",
        "lgamma",
        "log",
        "log10",
        "log1p",
        "log2",
        "maximum",
    ),
    *(
        "minimum",
        "mul",
        "neg",
        "pow",
        "reciprocal",
        "round",
        "rsqrt",
        "sigmoid",
        "sign",
        "sin",
        "sinh",
        "sqrt",
    ),
    *("sub", "tan", "tanh", "trunc", "zero"),
)


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A block in which it is noticed whether an op draws random numbers.

    Relies on such ops having the tag ``nondeterministic_seeded``.

    Attributes:
        seen: whether one did.
    """

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


FOREACH_ELEMENT: frozenset[Any] = frozenset(
    getattr(torch, called)
    for name in _ELEMENT_NAMES
    for called in (f"_foreach_{name}", f"_foreach_{name}_")
    if hasattr(torch, called)
)
"""Functions of lists of tensors that compute element by element, as optimisers and moving averages call them.

Relies on ``torch._foreach_add`` and its like taking lists whose entries in one place go together.
"""

same_kind_of_memory = torch._has_compatible_shallow_copy_type
"""What ``nn.Module.to`` asks before it gives a parameter other memory: ``same_kind_of_memory(tensor, other)``."""


def function_apply() -> Any:
    """``autograd.Function.apply`` as it is now, before it is bound to a class.

    Relies on its being a classmethod, of Python or (since torch 2.14) of C, which has no ``__func__``.
    """
    return inspect.getattr_static(torch.autograd.Function, "apply")


def bound_apply(apply: Any, function: type) -> Callable[..., Any]:
    """What :func:`function_apply` gave, for one class: ``bound_apply(apply, MyFunction)(x)``.

    Relies on what stands in the class binding by ``__get__``.
    """
    bound: Callable[..., Any] = apply.__get__(None, function)
    return bound


@contextmanager
def replaced_apply(apply: Any) -> Iterator[None]:
    """Inside the block, ``autograd.Function`` has this classmethod in the place of its ``apply``.

    Relies on every ``autograd.Function`` finding ``apply`` in ``torch.autograd.Function``, where it can be set.
    """
    with mock.patch.object(torch.autograd.Function, "apply", apply):
        yield


def is_of_library_op(function: type) -> bool:
    """Whether an ``autograd.Function`` is the one that ``torch.library`` made for an op with a backward.

    Relies on the module in which it makes them, ``torch._library.autograd``.
    """
    return function.__module__ == "torch._library.autograd"


@contextmanager
def replaced_losses(*, multi_margin_loss: Any, multilabel_margin_loss: Any) -> Iterator[None]:
    """Inside the block, functions of ``torch.nn.functional`` call these in place of ``torch._C._nn``'s.

    Relies on it calling ``torch._C._nn.multi_margin_loss(input, target, p, margin, weight, reduction)`` and
    ``torch._C._nn.multilabel_margin_loss(input, target, reduction)``, found anew in each call.
    """
    losses = torch._C._nn
    with (
        mock.patch.object(losses, "multi_margin_loss", multi_margin_loss),
        mock.patch.object(losses, "multilabel_margin_loss", multilabel_margin_loss),
    ):
        yield


def function_name(func: Callable[..., Any]) -> str:
    """What a function that ``__torch_function__`` is given is called in a script: ``torch.Tensor.mean``.

    Relies on ``torch.overrides.resolve_name`` knowing those of ``torch.overrides.get_overridable_functions``.
    """
    found = torch.overrides.resolve_name(func)
    return str(found or getattr(func, "__qualname__", None) or func)


def has_backward_of_its_own(value: torch.Tensor) -> bool:
    """Whether a tensor came out of an ``autograd.Function`` that is written in Python.

    Relies on the node of such a function being a ``torch.autograd.function.BackwardCFunction``.
    """
    return isinstance(value.grad_fn, torch.autograd.function.BackwardCFunction)


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` (``grad``, ``vmap``, ``jvp``) runs what is called here.

    Relies on ``torch._C._functorch.peek_interpreter_stack``.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None
