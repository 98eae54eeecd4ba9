"""Rules that users add: one table, filled by explicit calls of :func:`register_rule` only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

from graphshard.errors import GraphshardError
from graphshard.passes.rules.call import Rule

USER_RULES: dict[str, Rule] = {}
"""The rules that :func:`register_rule` added, by the name of the op; they come before the built-in ones."""


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


def register_rule(op: Any, *, override: bool = False) -> Callable[[Rule], Rule]:
    """Add a placement rule for an op that has none; used as a decorator.

    A rule says where the rows of the result live, and refuses what would not be exact on several ranks. It is
    trusted: see ``docs/rules.md`` for what it has to make sure of, and for an example.

    Args:
        op: an overload (``torch.ops.mylib.scale.default``), all overloads of an op (``torch.ops.mylib.scale``),
            or what ``torch.library.custom_op`` returned.
        override: replace a rule that is there already. Without it that is an error.

    Returns:
        The decorator; it returns the rule unchanged.

    Raises:
        GraphshardError: ``op`` is not an op, or has a rule already.
    """
    from graphshard.passes.rules import find_rule

    overloads = overloads_of(op)
    for overload in overloads:
        if find_rule(overload) is not None and not override:
            raise GraphshardError(
                f"{overload} has a placement rule already; pass override=True to replace it in this process"
            )

    def add(rule: Rule) -> Rule:
        USER_RULES.update({str(overload): rule for overload in overloads})
        return rule

    return add
