"""torch.export: what it leaves in a graph, and where it stands."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphshard.private.torch_ops import HigherOrderOperator

__all__ = [
    "SIZE_ASSERTS",
    "TRACER",
    "Region",
    "import_tracer",
    "region_of",
    "regions_of",
    "written_path",
]

aten = torch.ops.aten

TRACER = "torch.export._trace"
"""The module that torch.export imports when it is first called, and ``torch._dynamo`` with it: a second."""


def import_tracer() -> None:
    """Import it now, for torch.export's own first call would do so in the midst of what is traced or watched."""
    importlib.import_module(TRACER)


# ---- regions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A part of a graph that stands in a graph of its own.

    Attributes:
        grad: whether gradients are recorded inside. body: the node that names the graph. inputs: its arguments.
    """

    grad: bool
    body: fx.Node
    inputs: list[Any]


def regions_of(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that call a part of the graph that stands apart. Relies on ``torch._ops.HigherOrderOperator``."""
    return [node for node in graph.nodes if isinstance(node.target, HigherOrderOperator)]


def region_of(node: fx.Node) -> Region | None:
    """What a ``torch.no_grad()``, ``torch.enable_grad()`` or disabled autocast became; None of any other region.

    Relies on the names and the order of arguments of ``wrap_with_set_grad_enabled(enabled, body, *inputs)`` and
    ``wrap_with_autocast(device_type, dtype, enabled, cache_enabled, body, *inputs)``.
    """
    name, args = str(node.target), list(node.args)
    if name == "wrap_with_set_grad_enabled":
        enabled, body, *inputs = args
    elif name == "wrap_with_autocast" and args[2] is False:
        enabled, body, inputs = True, args[4], args[5:]
    else:
        return None
    assert isinstance(body, fx.Node)
    return Region(bool(enabled), body, inputs)


# ---- what else is in a graph -----------------------------------------------------------------------------------

SIZE_ASSERTS = (
    *(aten._assert_scalar, aten._functional_assert_scalar, aten._assert_tensor_metadata),
    *(aten.sym_constrain_range, aten.sym_constrain_range_for_size),
    *(aten._functional_sym_constrain_range, aten._functional_sym_constrain_range_for_size),
)
"""The ops by which torch.export asserts what it assumed of sizes, dtypes and devices; they compute nothing."""


def written_path(path: str) -> str:
    """A path of ``meta["nn_module_stack"]`` as the user would write it: ``convs.0``.

    Relies on the forms of paths there: ``L['self'].convs.0``, ``L['self']._modules['convs']``,
    ``L__self___convs``, ``getattr(L['self'].convs, '0')``.
    """
    path = re.sub(r"^L\['self'\]\.?|^L__self__[_.]?", "", path)
    path = re.sub(r"getattr\((?P<o>.*), '(?P<n>\w+)'\)", r"\g<o>.\g<n>", path)
    return path.replace("L['self']", "").replace("_modules['", "").replace("']", "").strip(".")
