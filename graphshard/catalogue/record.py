"""What is known of an op, in one record: its placement rule, its traits, what it sends, how it is printed and broken.

An op is the object that a program's node calls: an overload, whose schema torch keeps, or a Python function. Each
file of this folder has a table of one family, ``OPS``, from ops to records; where a rule is all there is to say, to
the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from torch import fx

from graphshard.catalogue.call import Call
from graphshard.ir.placement import Placement

Rule = Callable[[Call], Placement]
Target = Callable[..., Any]


class Trait(Flag):
    """What passes and analyses ask of an op."""

    NONE = 0
    ZEROS = auto()
    """Every element of the result is 0."""
    ONES = auto()
    """Every element of the result is 1."""
    FILL = auto()
    """Every element of the result is one number, given as the last argument or as ``fill_value``."""
    STOPS_GRADIENT = auto()
    """No gradient flows through it: it takes no more than shape and dtype from its tensors, or cuts the gradient."""
    PRODUCT = auto()
    """A matrix product: its work is arithmetic, not memory."""
    FRESH = auto()
    """Its result is memory of its own, and it keeps none of it for backward."""
    CONSTANT = ZEROS | ONES | FILL


@dataclass(frozen=True)
class Traffic:
    """How an op communicates.

    Attributes:
        kind: "halo_sync" or "halo_reduce" (rows of a halo plan), "all_reduce", "stack_ranks" (an all-reduce of as
            many values as there are ranks), "global_count" (one number), "gradient" (an all-reduce in backward only).
        words: what it brings from other ranks, for reports and checks; None where there is no value to compare.
        rows_like: of a call, the values with rows as those that travel forward, and back; None: its first argument.
    """

    kind: str
    words: str | None = None
    rows_like: Callable[[fx.Node], tuple[fx.Node, fx.Node]] | None = None


@dataclass(frozen=True)
class Faults:
    """What can take the place of an op so that the program runs and is wrong.

    Attributes:
        drop: it communicates nothing. drop_backward: its gradient is not sent, or not summed. None: no such fault.
    """

    drop: Target | None = None
    drop_backward: Target | None = None


@dataclass(frozen=True)
class Op:
    """The record of one op.

    Attributes:
        rule: where the rows of its result live.
        traits: what else passes and analyses ask.
        traffic: how it communicates; None where it does not.
        suffix: its result is printed by the name of what it is made of, and this word; None: by the op's name.
        faults: how it can be broken, to see that checks find it.
        passes_on: it only says where gradients are summed or scaled: its result is printed as what it is made of.
        items: it makes a list, one value for each of its first argument, which is a list too: traffic, suffix and
            names belong to these.
    """

    rule: Rule
    traits: Trait = Trait.NONE
    traffic: Traffic | None = None
    suffix: str | None = None
    faults: Faults | None = None
    passes_on: bool = False
    items: bool = False


Ops = Mapping[Target, Op | Rule]


def over(ops: Iterable[Target], record: Op | Rule) -> dict[Target, Op | Rule]:
    """One record for several ops."""
    return dict.fromkeys(ops, record)
