"""How an op is made known to torch: a schema, a kernel, a fake kernel, and a gradient.

::

    @operator("scale_rows(Tensor x, Tensor by) -> Tensor")
    def scale_rows(x, by):                      the kernel: plain tensors in, new tensors out
        return x * by

    @fake(scale_rows)
    def _(x, by):                               shapes and dtypes alone, for tracing
        return torch.empty_like(x)

    @gradient(scale_rows)
    class _ScaleRows(torch.autograd.Function):  forward calls the op below autograd; backward is made of ops
        ...

So AOTAutograd, ``make_fx`` and ``torch.compile`` take a rewritten program. What a decorator leaves behind is the
op's overload: it is called like a function, and it is the ``target`` of a program's node. ``torch.library.custom_op``
does the same for about 20 microseconds more a call (torch 2.13, measured), which small graphs would feel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphshard.private.torch_functions import BelowAutograd
from graphshard.private.torch_ops import OpOverload, schema_of

_NAMESPACE = "graphshard"
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]

Overload = OpOverload[..., Any]


def operator(schema: str) -> Callable[[Callable[..., Any]], Overload]:
    """Decorates the kernel of an op, for every device; give the op a :func:`fake` kernel too.

    Args:
        schema: ``name(Tensor x, ...) -> Tensor``, as for ``torch.library.define``.
    """
    return lambda kernel: _define(schema, kernel, "CompositeExplicitAutograd")


def composite(schema: str) -> Callable[[Callable[..., Any]], Overload]:
    """Decorates an op that is made of torch's own: its gradient and its fake kernel are theirs.

    Args:
        schema: as for :func:`operator`; may say that the result is a view, ``Tensor(a)``.
    """
    return lambda kernel: _define(schema, kernel, "CompositeImplicitAutograd")


def fake(op: Overload) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates what makes an op's results without computing them."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.register_fake(schema_of(op).name, function, lib=_LIBRARY)
        return function

    return register


def gradient(op: Overload) -> Callable[[Any], Any]:
    """Decorates the ``torch.autograd.Function`` (or a function that applies one) that an op runs where gradients do.

    Its ``forward`` calls :func:`below_autograd`.
    """

    def register(function: Any) -> Any:
        if isinstance(function, type):
            function = none_of_none(function)
        applied = getattr(function, "apply", function)
        _LIBRARY.impl(schema_of(op).name, applied, "Autograd")  # type: ignore[no-untyped-call]
        return function

    return register


def none_of_none(function: Any) -> Any:
    """Decorates a ``torch.autograd.Function`` whose results may have no gradient: then its arguments have none.

    autograd calls a backward also where no gradient arrived, with zeros unless told otherwise. Zeros would travel to
    the parameters, and an optimiser tells a gradient of zeros from none.
    """
    forward, backward = function.forward, function.backward

    def without_zeros(ctx: Any, *args: Any) -> Any:
        ctx.set_materialize_grads(False)
        return forward(ctx, *args)

    def or_none(ctx: Any, *grads: Any) -> Any:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        return backward(ctx, *grads)

    function.forward, function.backward = staticmethod(without_zeros), staticmethod(or_none)
    return function


def below_autograd(op: Overload, *args: Any) -> Any:
    """The op's kernel, or what a tracer puts in its place, without its gradient."""
    with BelowAutograd():
        return op(*args)


def _define(schema: str, kernel: Callable[..., Any], key: str) -> Overload:
    name: str = _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, kernel, key)  # type: ignore[no-untyped-call]
    op: Overload = getattr(getattr(torch.ops, _NAMESPACE), name.rpartition("::")[2]).default
    op.__doc__, op.__module__ = kernel.__doc__, kernel.__module__
    return op
