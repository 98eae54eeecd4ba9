"""Derivatives of and by placed tensors: the engine of autograd runs on the parts, each rank its own.

The placement of a gradient is that of what it is the gradient of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from graphshard.errors import UnsupportedOperation
from graphshard.private import pytree
from graphshard.private.torch_functions import WithoutTorchFunction, has_backward_of_its_own
from graphshard.shard.own_rows import OwnRows
from graphshard.shard.placed import Origin, PlacedTensor, as_placed, plain

_PLACED = (PlacedTensor, OwnRows)


def _like(part: Any, value: Any) -> Any:
    """A gradient, placed as what it is the gradient of: a placed tensor or a node parameter."""
    if not isinstance(part, Tensor) or isinstance(part, PlacedTensor) or not isinstance(value, _PLACED):
        return part
    origin = value.origin
    return as_placed(part, Origin(origin.shard, origin.placed, origin.group, origin.ids))


def _grad(func: Callable[..., Any], args: Any, _kwargs: Any) -> Any:
    with WithoutTorchFunction():
        return _like(func(args[0]), args[0])


def _set_grad(func: Callable[..., Any], args: Any, _kwargs: Any) -> None:
    with WithoutTorchFunction():
        func(args[0], plain(args[1]))


def _edge(value: Any) -> Any:
    """What stands for a tensor in the graph of derivatives: a placed one is asked for as itself, not as its part."""
    if not isinstance(value, _PLACED):
        return value
    with WithoutTorchFunction():
        return get_gradient_edge(value)


def check_backward(value: PlacedTensor) -> None:
    """Refuse rows that a user's own ``autograd.Function`` gave: its backward would be given this rank's rows alone.

    Raises:
        UnsupportedOperation: it came out of one.
    """
    with WithoutTorchFunction():
        if value.requires_grad and has_backward_of_its_own(value):
            name = type(value.grad_fn).__name__.removesuffix("Backward")
            raise UnsupportedOperation(
                f"a tensor of the graph came out of {name}, an autograd.Function whose backward would be given this "
                "rank's rows alone: call it in forward of a model, where its backward is captured too"
            )


def _sequence(values: Any) -> list[Any]:
    return [values] if isinstance(values, (Tensor, GradientEdge)) else list(values)


def _check_seed(outputs: list[Any], seeds: Any) -> None:
    """A derivative begins at a value that every rank holds whole, or at rows with a cotangent of their own."""
    given = [None] * len(outputs) if seeds is None else _sequence(seeds)
    for output, seed in zip(outputs, given, strict=True):
        if not isinstance(output, PlacedTensor):
            continue
        check_backward(output)
        if seed is None:
            if not output.placement.replicated:
                raise UnsupportedOperation(
                    "backward of rows begins with one number: take their sum or mean first, or pass gradient="
                )
        elif isinstance(seed, PlacedTensor) and seed.placement.dims != output.placement.dims:
            raise UnsupportedOperation(
                "the gradient that backward begins with has other rows than the output"
            )
        elif not isinstance(seed, PlacedTensor) and not output.placement.replicated:
            raise UnsupportedOperation(
                "the gradient that backward begins with is a plain tensor, and the output rows of the graph: make it "
                "of tensors of the shard, as torch.ones_like(out)"
            )


def _backward(
    _func: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> None:
    self, *rest = args
    names = ("gradient", "retain_graph", "create_graph", "inputs")
    given = dict(zip(names, rest, strict=False)) | kwargs
    _run_backward(
        [self],
        None if given.get("gradient") is None else [given["gradient"]],
        given.get("retain_graph"),
        given.get("create_graph", False),
        given.get("inputs"),
    )


def _backward_of(_func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    names = ("tensors", "grad_tensors", "retain_graph", "create_graph", "grad_variables", "inputs")
    given = dict(zip(names, args, strict=False)) | kwargs
    seeds = given.get("grad_tensors")
    _run_backward(
        _sequence(given["tensors"]),
        None if seeds is None else _sequence(seeds),
        given.get("retain_graph"),
        given.get("create_graph", False),
        given.get("inputs"),
    )


def _run_backward(
    outputs: list[Any], seeds: list[Any] | None, retain: bool | None, create: bool, inputs: Any
) -> None:
    _check_seed(outputs, seeds)
    wanted = None if inputs is None else [_edge(value) for value in _sequence(inputs)]
    torch.autograd.backward(
        pytree.tree_map(plain, outputs),
        pytree.tree_map(plain, seeds),
        retain_graph=retain,
        create_graph=create,
        inputs=wanted,
    )


def _grad_of(_func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, ...]:
    names = (
        "outputs",
        "inputs",
        "grad_outputs",
        "retain_graph",
        "create_graph",
        "only_inputs",
        "allow_unused",
    )
    given = dict(zip(names, args, strict=False)) | kwargs
    outputs, inputs = _sequence(given.pop("outputs")), _sequence(given.pop("inputs"))
    seeds = given.pop("grad_outputs", None)
    seeds = None if seeds is None else _sequence(seeds)
    _check_seed(outputs, seeds)
    zeros = given.pop("materialize_grads", False)
    if zeros:
        given["allow_unused"] = True
    found = torch.autograd.grad(
        pytree.tree_map(plain, outputs),
        [_edge(value) for value in inputs],
        pytree.tree_map(plain, seeds),
        **given,
    )
    grads = [
        torch.zeros_like(plain(x)) if g is None and zeros else g for g, x in zip(found, inputs, strict=True)
    ]
    return tuple(_like(grad, value) for grad, value in zip(grads, inputs, strict=True))


def _hook(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A hook of the user's is given gradients that are placed as the tensor is."""
    self, hook = args[0], args[1] if len(args) > 1 else kwargs["hook"]
    with WithoutTorchFunction():
        return func(self, lambda gradient: plain(hook(_like(gradient, self))))


DERIVATIVES: Mapping[Any, Callable[..., Any]] = {
    Tensor.grad.__get__: _grad,  # type: ignore[union-attr]
    Tensor.grad.__set__: _set_grad,  # type: ignore[union-attr]
    Tensor.backward: _backward,
    Tensor.register_hook: _hook,
    torch.autograd.backward: _backward_of,
    torch.autograd.grad: _grad_of,
}
"""What ``graphshard.border.functions`` answers for them."""
