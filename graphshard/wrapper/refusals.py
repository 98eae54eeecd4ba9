"""What ``distribute`` does not take: no module, or one that is wrapped for another kind of training already."""

from __future__ import annotations

import torch
from torch import nn

from graphshard.errors import CaptureError, module_called
from graphshard.private.torch_functions import in_transform
from graphshard.private.torch_modules import is_compiled, is_fully_sharded


def check_model(model: object) -> None:
    """Refuse what cannot be distributed whatever its forward does.

    Raises:
        CaptureError: names the wrapper and the way out.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"distribute() takes an nn.Module, not a {type(model).__name__}")
    if is_compiled(model):  # one inside of another is run as it is written
        raise CaptureError(
            "the model is wrapped in torch.compile (OptimizedModule): pass the module that was compiled"
        )
    if isinstance(model, torch.jit.ScriptModule):  # one inside of another: capture/refusals.py
        raise CaptureError(
            "the model is wrapped in torch.jit (script or trace), which hides its ops: pass the nn.Module that it was "
            "made from"
        )
    for path, module in model.named_modules():
        if (wrapper := _wrapper(module)) is not None:
            raise CaptureError(f"{module_called(path)} is wrapped in {wrapper}")


def check_own_state(model: nn.Module) -> None:
    """Refuse node parameters of a module whose class makes its ``state_dict`` itself: it would be one rank's rows.

    Raises:
        CaptureError: names the method and the way out.
    """
    for name in ("state_dict", "load_state_dict"):
        if getattr(type(model), name) is not getattr(nn.Module, name):
            raise CaptureError(
                f"{type(model).__name__} writes {name} anew, which would give and take the rows of one rank only of "
                "its node_parameters: give the method another name, or put what it adds into get_extra_state and "
                "set_extra_state"
            )


def check_surroundings() -> None:
    """Refuse a call inside of what changes how every op is computed.

    Raises:
        CaptureError: names it and the way out.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise CaptureError("autocast is on, which is not supported yet: cast the model and the data instead")
    if in_transform():
        raise CaptureError(
            "rows of the graph are computed with inside of a transform of torch.func (grad, vmap, jvp, ...), which "
            "does not reach the other ranks: use torch.autograd.grad, or the transform on the single-machine module"
        )


def _wrapper(module: nn.Module) -> str | None:
    """The name of the wrapper that a module is, and what to do; None of any other."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return (
            "DistributedDataParallel: pass the module inside, .module; graphshard sums the gradients itself"
        )
    if isinstance(module, nn.DataParallel):
        return "DataParallel: pass the module inside, .module; every rank of graphshard has one device"
    if is_fully_sharded(module):
        return (
            "FSDP (FullyShardedDataParallel or fully_shard), which shards its parameters: pass the module as it was "
            "before; graphshard shards the graph, and parameters are whole on every rank"
        )
    return None
