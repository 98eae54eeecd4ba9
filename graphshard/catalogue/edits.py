"""The edits that a placement rule asks for: what a pass has yet to do before a placement is true."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from graphshard.ir.placement import Halo


@dataclass(frozen=True)
class HaloSync:
    """``user`` gathers the rows ``halo`` of ``value``, which holds owned rows along ``dim``."""

    value: fx.Node
    user: fx.Node
    dim: int
    halo: Halo


@dataclass(frozen=True)
class HaloReduce:
    """Each copy of a node in ``value``, whose rows are ``halo``, holds a term of the node's row."""

    value: fx.Node
    reduce: str
    halo: Halo


@dataclass(frozen=True)
class AllReduce:
    """Each rank holds a term of ``value``."""

    value: fx.Node
    reduce: str


@dataclass(frozen=True)
class GlobalCount:
    """``user`` reads the row count ``size`` as a number: it must be the count over all ranks."""

    size: fx.Node
    user: fx.Node


@dataclass(frozen=True)
class GlobalIds:
    """``user`` reads the node numbers in ``value`` as numbers: they must be global ids."""

    value: fx.Node
    user: fx.Node


@dataclass(frozen=True)
class Rewrite:
    """``node`` runs over rows that are spread over the ranks, and one pass knows how: a class for each kind."""

    node: fx.Node


class LossOverRows(Rewrite):
    """A mean loss: ``expand_losses``."""


class BatchNormOverRows(Rewrite):
    """``distribute_batch_norm``."""


class DropoutOverRows(Rewrite):
    """``distribute_dropout``."""


class RandomOverRows(Rewrite):
    """Any other op that draws random numbers: ``distribute_random``."""


class StatisticOverRows(Rewrite):
    """A mean, variance, truth or norm that sums are made of: ``expand_reductions``."""


class ExtremeOverRows(Rewrite):
    """A maximum or minimum, or where it is: ``expand_extremes``."""


class StackOverRanks(Rewrite):
    """A reduction whose ranks' own values are stacked and reduced again: ``stack_reductions``."""


class ScatterOverRows(Rewrite):
    """A scatter that is no sum: ``expand_scatters``."""


class NumberedRows(Rewrite):
    """Rows that are read or written by numbers that every rank holds whole: ``localize_ids``."""


class ScatterBySource(Rewrite):
    """A scatter that writes rows of other ranks' nodes: ``insert_halo_sync``."""


Edit = HaloSync | HaloReduce | AllReduce | GlobalCount | GlobalIds | Rewrite
