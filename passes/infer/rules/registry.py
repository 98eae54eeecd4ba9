"""Rules that users add: one table, filled by explicit calls of ``graphshard.register_rule`` only."""

from __future__ import annotations

from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

from graphshard.errors import GraphshardError
from graphshard.passes.infer.rules.call import Rule

USER_RULES: dict[str, Rule] = {}
"""The rules that ``graphshard.register_rule`` added, by the name of the op; they come before the built-in ones."""


def name_of(target: Any) -> str:
    """The key of a call target in the rule tables: ``aten.relu.default``, ``_operator.add``."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = getattr(target, "__module__", "") or ""
    return f"{module}.{getattr(target, '__name__', target)}"


def overloads_of(op: Any) -> list[torch._ops.OpOverload[..., Any]]:
    """What an op stands for in a program: itself, or each overload of a packet.

    Raises:
        GraphshardError: op is none of these.
    """
    if isinstance(op, torch._ops.OpOverload):
        return [op]
    if isinstance(op, torch._ops.OpOverloadPacket):
        return [getattr(op, overload) for overload in op.overloads()]  # type: ignore[no-untyped-call]
    if isinstance(op, CustomOpDef):
        return [op._opoverload]
    raise GraphshardError(
        f"register_rule() takes an op such as torch.ops.aten.erfinv.default or a torch.library custom op, "
        f"not {op!r}"
    )
