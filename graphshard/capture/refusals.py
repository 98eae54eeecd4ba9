"""What has to be refused before capture, because the captured graph would not show it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphshard.capture.calls import unwatched
from graphshard.capture.replacements import REPLACED, check_equivalent
from graphshard.capture.sparse import SparseStandIn
from graphshard.errors import CaptureError, module_called
from graphshard.private import pytree
from graphshard.private.torch_functions import bound_apply, function_apply, is_of_library_op, replaced_apply
from graphshard.private.torch_modules import has_backward_hooks


def check_module(model: nn.Module) -> None:
    """Refuse modules that keep the first graph they see, or whose backward is more than autograd's.

    Raises:
        CaptureError: names the module, its class and its source line, and says what to do instead.
    """
    refuse_scripted(model)
    for path, module in model.named_modules():
        if getattr(module, "cached", False) is True and hasattr(module, "propagate"):
            raise CaptureError(
                f"{describe(path, module)} has cached=True: it keeps the normalisation of the first graph it "
                "sees, which on a shard is another graph; set cached=False"
            )
        if has_backward_hooks(module):
            raise CaptureError(
                f"{describe(path, module)} has backward hooks, which a captured program would not call; "
                "remove them, or hook the Parameters"
            )
        if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
            raise CaptureError(
                f"{describe(path, module)} is a lazy layer whose parameters or buffers have no shape yet: run "
                "the model once on a few nodes of the data before distribute(), and make the optimiser after that"
            )


def refuse_scripted(model: nn.Module) -> None:
    """Refuse a module in which torch.jit has compiled a part; what it holds cannot be looked at either.

    Raises:
        CaptureError: names the part.
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{describe(path, module)} was compiled by torch.jit, which hides its ops; use the nn.Module it was "
                "made from"
            )


def check_arguments(leaves: dict[str, Any]) -> None:
    """Refuse Python ints: one that is a row count would be baked into the program.

    Raises:
        CaptureError: names the argument.
    """
    for name, value in leaves.items():
        if isinstance(value, int) and not isinstance(value, bool):
            raise CaptureError(
                f"forward's argument {name!r} is the Python int {value}: if it counts nodes or edges it would "
                "be baked into the program, and differ on a shard; use x.size(0) inside forward, or make it "
                "an attribute of the model"
            )
        if not isinstance(value, (bool, float, str, type(None), torch.dtype, torch.device)):
            raise CaptureError(
                f"forward's argument {name!r} is a {type(value).__name__}, which cannot be captured; pass "
                "tensors"
            )


def describe(path: str, module: nn.Module) -> str:
    """``module 'convs.0' (GCNConv, model.py:12)``."""
    try:
        place = f", {inspect.getsourcefile(type(module))}:{inspect.getsourcelines(type(module))[1]}"
    except (OSError, TypeError):
        place = ""
    return f"{module_called(path)} ({type(module).__name__}{place})"


@contextmanager
def refuse_custom_functions() -> Iterator[None]:
    """While the model runs eagerly, refuse a custom ``autograd.Function``: its backward is not captured.

    Raises:
        CaptureError: names the Function and the user's line that applies it.
    """

    apply = function_apply()

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls in REPLACED:
            with replaced_apply(apply), unwatched():
                check_equivalent(cls, args, kwargs)
        if cls in REPLACED or is_of_library_op(cls):
            # The latter is of a torch.library op, whose rule answers for its backward.
            return bound_apply(apply, cls)(*args, **kwargs)
        frame = traceback.extract_stack()[-2]
        raise CaptureError(
            f"the custom autograd.Function {cls.__name__} has a backward that cannot be captured "
            f"({frame.filename}:{frame.lineno}: `{frame.line}`); write the step with differentiable ops, or say which "
            f"they are with graphshard.replace({cls.__name__}, function)"
        )

    with replaced_apply(classmethod(refuse)):
        yield


@contextmanager
def refuse_adjacency_in_layers(model: nn.Module) -> Iterator[None]:
    """While the model runs eagerly, refuse a sparse adjacency that a layer of PyG gets.

    Its layers add self loops to one in another way than to an ``edge_index``, and leave its values out or not, by the
    class of the layer.

    Raises:
        CaptureError: names the layer.
    """

    def refuse(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(isinstance(value, SparseStandIn) for value in pytree.tree_leaves((args, kwargs))):
            path = next(path for path, other in model.named_modules() if other is module)
            raise CaptureError(
                f"{describe(path, module)} gets a sparse adjacency, which a layer of PyG treats in a way of its own: "
                "pass edge_index and edge_weight instead, as the data has them without T.ToSparseTensor() (a product "
                "adj @ x outside of PyG's layers is captured)"
            )

    layers = [module for module in model.modules() if hasattr(module, "propagate")]
    handles = [module.register_forward_pre_hook(refuse, with_kwargs=True) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
