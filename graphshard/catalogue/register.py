"""``graphshard.register_rule``: how users add a placement rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphshard.catalogue.record import Rule
from graphshard.catalogue.table import USER_RULES, find_rule
from graphshard.errors import GraphshardError
from graphshard.private.torch_ops import CustomOpDef, OpOverload, OpOverloadPacket, overload_of


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
    overloads = overloads_of(op)
    for overload in overloads:
        if find_rule(overload) is not None and not override:
            raise GraphshardError(
                f"{overload} has a placement rule already; pass override=True to replace it in this process"
            )

    def add(rule: Rule) -> Rule:
        USER_RULES.update(dict.fromkeys(overloads, rule))
        return rule

    return add


def overloads_of(op: Any) -> list[OpOverload[..., Any]]:
    """What an op stands for in a program: itself, or each overload of a packet.

    Raises:
        GraphshardError: op is none of these.
    """
    if isinstance(op, OpOverload):
        return [op]
    if isinstance(op, OpOverloadPacket):
        return [getattr(op, overload) for overload in op.overloads()]  # type: ignore[no-untyped-call]
    if isinstance(op, CustomOpDef):
        return [overload_of(op)]
    raise GraphshardError(
        f"register_rule() takes an op such as torch.ops.aten.erfinv.default or a torch.library custom op, "
        f"not {op!r}"
    )
