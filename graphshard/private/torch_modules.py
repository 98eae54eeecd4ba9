"""What an ``nn.Module`` keeps in dicts of its own, and how PyTorch's batch norms are written."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils.module_tracker import ModuleTracker

__all__ = [
    "BOOKKEEPING",
    "BatchNorm",
    "as_parameters",
    "buffers_of",
    "check_input_dim",
    "children_of",
    "forward_hooks",
    "has_backward_hooks",
    "is_compiled",
    "is_fully_sharded",
    "parameters_of",
    "share_state",
    "state_of",
    "with_state",
    "without_batch_size_check",
    "without_module_trackers",
]


def share_state(module: nn.Module, other: nn.Module) -> None:
    """Let a module have the parameters, buffers and submodules of another: one set of dicts, whoever writes there.

    Relies on ``nn.Module`` keeping them in ``_parameters``, ``_buffers``, ``_modules`` and
    ``_non_persistent_buffers_set``, and nowhere else.
    """
    module._parameters = other._parameters
    module._buffers = other._buffers
    module._modules = other._modules
    module._non_persistent_buffers_set = other._non_persistent_buffers_set


def state_of(module: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """The module's own dicts of its parameters and of its buffers. Relies on ``_parameters`` and ``_buffers``."""
    return module._parameters, module._buffers  # type: ignore[return-value]


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own parameters by name, with those that are None, which ``named_parameters`` leaves out.

    Relies on ``nn.Module._parameters``.
    """
    return dict(module._parameters)


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The module's own submodules by name: each name of one that has two, and those that are None. Its own dict.

    Relies on ``nn.Module._modules``; ``named_children`` leaves both out.
    """
    return module._modules


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's own buffers by name, with those that are None. Relies on ``nn.Module._buffers``."""
    return dict(module._buffers)


def with_state(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter | None],
    buffers: Mapping[str, Tensor | None],
    children: Mapping[str, nn.Module | None],
) -> nn.Module:
    """A shallow copy of a module with these parameters, buffers and submodules; the module stays as it is.

    Relies on ``nn.Module._parameters``, ``_buffers`` and ``_modules``, which a copy shares until it is given others.
    """
    twin = copy.copy(module)
    vars(twin).update(_parameters=dict(parameters), _buffers=dict(buffers), _modules=dict(children))
    return twin


BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"}
"""The names of the attributes in which an ``nn.Module`` keeps its own. Relies on ``nn.Module.__init__`` making them."""


def forward_hooks(module: nn.Module) -> dict[str, dict[int, Any]]:
    """What is called before and after the module's forward, by kind; the module's own dicts.

    Relies on ``nn.Module._forward_pre_hooks`` and ``_forward_hooks``.
    """
    return {"forward_pre_hook": module._forward_pre_hooks, "forward_hook": module._forward_hooks}


@contextmanager
def as_parameters(model: nn.Module) -> Iterator[None]:
    """Inside the block, a tensor in the place of a parameter is a Parameter of the same values.

    Relies on ``torch.func.functional_call`` writing tensors into ``nn.Module._parameters``.
    """
    taken: list[tuple[nn.Module, str, Any]] = [
        (module, name, tensor)
        for module in model.modules()
        for name, tensor in module._parameters.items()
        if tensor is not None and not isinstance(tensor, nn.Parameter)
    ]
    for module, name, tensor in taken:
        module._parameters[name] = nn.Parameter(tensor.detach(), tensor.requires_grad)
    try:
        yield
    finally:
        for module, name, tensor in taken:
            module._parameters[name] = tensor


def has_backward_hooks(module: nn.Module) -> bool:
    """Whether something is called when gradients pass the module.

    Relies on ``nn.Module._backward_hooks`` and ``_backward_pre_hooks``.
    """
    return bool(module._backward_hooks or module._backward_pre_hooks)


def check_input_dim(norm: BatchNorm, x: Tensor) -> None:
    """Raise what a batch norm raises of an input of other dims than its own. Relies on ``_check_input_dim``."""
    norm._check_input_dim(x)  # type: ignore[no-untyped-call]


@contextmanager
def without_batch_size_check() -> Iterator[None]:
    """Inside the block, ``torch.nn.functional`` normalises batches without looking at their number of rows.

    Relies on ``F.batch_norm`` and ``F.instance_norm`` calling ``F._verify_batch_size``, found anew in each call.
    """
    with mock.patch.object(F, "_verify_batch_size", return_value=None):
        yield


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether a module's parameters were sharded by FSDP, of the first or the second kind.

    Relies on the classes ``FullyShardedDataParallel`` and ``FSDPModule`` of ``torch.distributed.fsdp``, which need not
    be loaded: a module of theirs cannot exist before they are.
    """
    loaded = sys.modules.get("torch.distributed.fsdp")
    kinds = [getattr(loaded, name, None) for name in ("FullyShardedDataParallel", "FSDPModule")]
    return any(kind is not None and isinstance(module, kind) for kind in kinds)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what ``torch.compile(module)`` gave.

    Relies on the class ``torch._dynamo.eval_frame.OptimizedModule``, which is loaded where one exists.
    """
    kind = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", None)
    return kind is not None and isinstance(module, kind)


@contextmanager
def without_module_trackers() -> Iterator[None]:
    """Inside the block, no ``ModuleTracker`` (a ``FlopCounterMode`` has one) is told of the modules that are called.

    Relies on its hooks being methods of it, in ``_global_forward_pre_hooks`` and ``_global_forward_hooks``.
    """
    taken = []
    for hooks in (hooks_of_all._global_forward_pre_hooks, hooks_of_all._global_forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), ModuleTracker):
                taken.append((hooks, key, hooks.pop(key)))
    try:
        yield
    finally:
        for hooks, key, hook in taken:
            hooks[key] = hook
