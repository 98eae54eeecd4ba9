"""Ops of ``torch.ops``: their classes, which torch keeps in modules of its own, and their schemas.

::

    torch.ops.aten.relu.default   an OpOverload: what a node of a captured graph calls
    torch.ops.aten.relu           an OpOverloadPacket: all overloads of an op
    torch.ops.higher_order.*      HigherOrderOperators: ops that take graphs, as the region of a torch.no_grad()
    torch.library.custom_op(..)   makes a CustomOpDef of a function
"""

from __future__ import annotations

from typing import Any

from torch._C import DispatchKey
from torch._library.custom_ops import CustomOpDef
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

__all__ = [
    "CustomOpDef",
    "HigherOrderOperator",
    "OpOverload",
    "OpOverloadPacket",
    "has_composite_kernel",
    "overload_of",
    "schema_of",
]


def schema_of(op: Any) -> Any:
    """The schema of an overload: ``name``, ``arguments``, ``returns``, ``is_mutable``.

    Relies on ``OpOverload._schema``, a ``torch._C.FunctionSchema``.
    """
    return op._schema


def overload_of(op: CustomOpDef) -> OpOverload[..., Any]:
    """The overload that a graph calls for a function made by ``torch.library.custom_op``.

    Relies on ``CustomOpDef._opoverload``.
    """
    return op._opoverload


def has_composite_kernel(op: OpOverload[..., Any]) -> bool:
    """Whether an op is defined by other ops, which autograd records in its place: ``op.decompose`` runs them.

    Relies on the dispatch key ``CompositeImplicitAutograd``, under which C++ and ``OpOverload.py_kernels`` have them.
    """
    key = DispatchKey.CompositeImplicitAutograd
    return key in op.py_kernels or op.has_kernel_for_dispatch_key(key)
