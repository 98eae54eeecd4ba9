"""The difference of any two stages of one compilation."""

from __future__ import annotations

from graphshard.ir.program import Program, Stage
from graphshard.show.differ import Diff, diff_pipeline
from graphshard.show.names import Names
from graphshard.show.traffic import traffic_of


def diff_stages(before: Stage | Program, after: Stage | Program) -> Diff:
    """What ``graphshard.diff`` would show if a compilation began with one stage and ended with the other."""
    pair = [stage if isinstance(stage, Stage) else Stage("", 0, stage) for stage in (before, after)]
    names = Names([stage.program for stage in pair])
    return diff_pipeline(pair, names, traffic_of(pair[1].program, names=names), between=False)
