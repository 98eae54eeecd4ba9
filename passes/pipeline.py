"""The pipeline: runs passes one after the other and keeps every stage for ``graphshard diff``::

    capture -> infer_placement -> globalize_ids -> distribute_dropout -> distribute_random
            -> distribute_batch_norm -> expand_losses -> expand_reductions -> stack_reductions
            -> expand_extremes -> expand_scatters -> insert_halo_sync -> insert_all_reduce -> sum_gradients

The pipeline alone copies, lints, recompiles and checks placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphshard.passes.base import Pass, Program
from graphshard.passes.distribute_batch_norm import DistributeBatchNorm
from graphshard.passes.distribute_dropout import DistributeDropout
from graphshard.passes.distribute_random import DistributeRandom
from graphshard.passes.expand_extremes import ExpandExtremes
from graphshard.passes.expand_losses import ExpandLosses
from graphshard.passes.expand_reductions import ExpandReductions
from graphshard.passes.expand_scatters import ExpandScatters
from graphshard.passes.globalize_ids import GlobalizeIds
from graphshard.passes.infer_placement import InferPlacement, check_placed
from graphshard.passes.insert_all_reduce import InsertAllReduce
from graphshard.passes.insert_halo_sync import InsertHaloSync
from graphshard.passes.stack_reductions import StackReductions
from graphshard.passes.sum_gradients import SumGradients


def correctness_passes() -> tuple[Pass, ...]:
    """The passes that make a program exact on any number of ranks, in order."""
    return (
        InferPlacement(),
        GlobalizeIds(),
        DistributeDropout(),
        DistributeRandom(),
        DistributeBatchNorm(),
        ExpandLosses(),
        ExpandReductions(),
        StackReductions(),
        ExpandExtremes(),
        ExpandScatters(),
        InsertHaloSync(),
        InsertAllReduce(),
        SumGradients(),
    )


@dataclass(frozen=True)
class Stage:
    """The program as one pass left it."""

    name: str
    edits: int
    program: Program


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; :func:`correctness_passes` unless others are given."""

    passes: Sequence[Pass] = field(default_factory=correctness_passes)

    def run(self, program: Program) -> list[Stage]:
        """Every stage, the captured program first; ``program`` itself stays as it is.

        Raises:
            UnsupportedOperation: the model cannot be distributed exactly.
            PlacementError: a pass left something to do, or a graph that does not lint.
        """
        current = program.copy()
        stages = [Stage("capture", 0, program.copy())]
        refresh = InferPlacement()
        for step in self.passes:
            edits = step.run(current)
            current.graph.eliminate_dead_code()
            current.graph.lint()
            refresh.run(current)
            stages.append(Stage(step.name, edits, current.copy()))
        check_placed(current)
        stages[-1].program.module.recompile()
        return stages
