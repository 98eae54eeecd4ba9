"""All records in one table, and what is asked of it about a node."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import fx

from graphshard.catalogue import (
    aggregate,
    communication,
    create,
    features,
    gather,
    matmul,
    pieces,
    pointwise,
    random,
    reduce,
    scatter,
    shape,
    training,
    write,
)
from graphshard.catalogue.record import Op, Rule, Target, Trait

FAMILIES = (
    pointwise,
    shape,
    pieces,
    create,
    gather,
    write,
    scatter,
    reduce,
    matmul,
    features,
    training,
    random,
    communication,
    aggregate,
)

USER_RULES: dict[Target, Rule] = {}
"""The rules that ``graphshard.register_rule`` added, by the op; they come before the built-in ones."""


def one_table(families: Iterable[Any]) -> dict[Target, Op]:
    """Op -> record, of all families.

    Raises:
        ValueError: two families have a record for one op.
    """
    records: dict[Target, Op] = {}
    for family in families:
        for op, record in family.OPS.items():
            if op in records:
                raise ValueError(f"{family.__name__} has a rule for {op}, which another family has one for")
            records[op] = record if isinstance(record, Op) else Op(record)
    return records


CATALOGUE = one_table(FAMILIES)


EXCHANGES = frozenset(op.traffic.words for op in CATALOGUE.values() if op.traffic and op.traffic.words)
"""What ops bring from other ranks, in words: see `record.Traffic`."""


def record_of(node: Any) -> Op | None:
    """The record of the op that a node calls; None for an op without one, and for what calls nothing."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    return CATALOGUE.get(node.target)  # type: ignore[arg-type]


def find_rule(target: Any) -> Rule | None:
    """The rule for a call target, those of users first; None where there is none: the program is refused."""
    if target in USER_RULES:
        return USER_RULES[target]
    record = CATALOGUE.get(target)
    return pointwise.find(target) if record is None else record.rule


def has_trait(node: Any, trait: Trait) -> bool:
    """Whether the op that a node calls has a trait, or one of several: ``has_trait(node, Trait.PRODUCT)``."""
    record = record_of(node)
    return record is not None and bool(record.traits & trait)


def made_by(node: fx.Node) -> tuple[Op, fx.Node] | None:
    """The record that describes a value, and what the value is made of: an op's first argument.

    An item of a list is described by the record of the op that made the list; the list itself by none.
    """
    whole: Any = node.args[0] if node.target is operator.getitem else node
    record = record_of(whole)
    if record is None or record.items is (whole is node):
        return None
    made_of: Any = whole.args[0] if whole.args else None
    if record.items:
        made_of = made_of[node.args[1]]
    return (record, made_of) if isinstance(made_of, fx.Node) else None
