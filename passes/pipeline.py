"""The pipeline: runs passes one after the other and keeps every stage for ``graphshard diff``::

    capture -> infer_placement -> globalize_ids -> distribute_dropout -> distribute_random
            -> distribute_batch_norm -> expand_losses -> expand_reductions -> stack_reductions
            -> expand_extremes -> expand_scatters -> insert_halo_sync -> insert_all_reduce -> sum_gradients

and then the passes that make it faster, each of which :class:`Options` can leave out::

            -> free_constants -> lower_aggregations -> sort_edges -> fold_scales -> reassociate_aggregations
            -> move_halo_syncs -> overlap_halo_syncs -> merge_halo_syncs -> narrow_halo_rows
            -> fuse_relu_dropout -> work_in_place -> bucket_gradients -> hoist_graph_constants

The pipeline alone copies, numbers nodes, lints, recompiles and checks placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import count

from graphshard.passes.base import Pass, Program
from graphshard.passes.bucket_gradients import BucketGradients
from graphshard.passes.distribute_batch_norm import DistributeBatchNorm
from graphshard.passes.distribute_dropout import DistributeDropout
from graphshard.passes.distribute_random import DistributeRandom
from graphshard.passes.expand_extremes import ExpandExtremes
from graphshard.passes.expand_losses import ExpandLosses
from graphshard.passes.expand_reductions import ExpandReductions
from graphshard.passes.expand_scatters import ExpandScatters
from graphshard.passes.fold_scales import FoldScales
from graphshard.passes.free_constants import FreeConstants
from graphshard.passes.fuse_relu_dropout import FuseReluDropout
from graphshard.passes.globalize_ids import GlobalizeIds
from graphshard.passes.hoist_graph_constants import HoistGraphConstants
from graphshard.passes.identity import number_nodes
from graphshard.passes.infer_placement import InferPlacement, check_placed
from graphshard.passes.insert_all_reduce import InsertAllReduce
from graphshard.passes.insert_halo_sync import InsertHaloSync
from graphshard.passes.lower_aggregations import LowerAggregations
from graphshard.passes.merge_halo_syncs import MergeHaloSyncs
from graphshard.passes.move_halo_syncs import MoveHaloSyncs
from graphshard.passes.narrow_halo_rows import NarrowHaloRows
from graphshard.passes.overlap_halo_syncs import OverlapHaloSyncs
from graphshard.passes.reassociate_aggregations import ReassociateAggregations
from graphshard.passes.sort_edges import SortEdges
from graphshard.passes.stack_reductions import StackReductions
from graphshard.passes.sum_gradients import SumGradients
from graphshard.passes.work_in_place import WorkInPlace


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
class Options:
    """Which passes make the program faster; every combination is exact, but for ``narrow_halo_rows``.

    Attributes:
        free_constants: what takes only a dtype, a device or a size from a value does not wait for it.
        lower_aggregations: gathers and scatters along constant edges become sparse matrix products.
        sort_edges: edges are numbered in the order of the rows that they are summed into.
        fold_scales: a constant factor of each row becomes part of the weights of its edges; changes rounding.
        reassociate_aggregations: a dense product stands where it makes an aggregation cheapest; changes rounding.
        move_halo_syncs: a sync stands where it is cheapest along ops that work row by row.
        overlap_halo_syncs: a sum over neighbours begins while their halo rows travel; off by default, for it needs a
            core that has nothing else to do, or a GPU.
        merge_halo_syncs: values that are synced at the same time travel in one message.
        narrow_halo_rows: halo rows and their gradients travel as bfloat16. **Inexact**; off by default, and ``verify``
            never passes.
        fuse_relu_dropout: a rectifier and the dropout of its result are one op, and neither is kept for backward.
        work_in_place: what writes a whole tensor writes over one that nobody reads again.
        bucket_gradients: gradients of several parameters are summed over the ranks in one all-reduce.
        hoist_graph_constants: what depends on the graph alone is computed once for each graph.
    """

    free_constants: bool = True
    lower_aggregations: bool = True
    sort_edges: bool = True
    fold_scales: bool = True
    reassociate_aggregations: bool = True
    move_halo_syncs: bool = True
    overlap_halo_syncs: bool = False
    merge_halo_syncs: bool = True
    narrow_halo_rows: bool = False
    fuse_relu_dropout: bool = True
    work_in_place: bool = True
    bucket_gradients: bool = True
    hoist_graph_constants: bool = True

    @classmethod
    def none(cls) -> Options:
        """Only the passes that make a program exact."""
        return cls(**{field.name: False for field in fields(cls)})

    @property
    def inexact(self) -> tuple[str, ...]:
        """The chosen passes that change results beyond rounding in another order."""
        return ("narrow_halo_rows",) if self.narrow_halo_rows else ()


def optimising_passes(options: Options) -> tuple[Pass, ...]:
    """The passes that make an exact program faster, in order."""
    passes: tuple[Pass, ...] = (
        FreeConstants(),
        LowerAggregations(),
        SortEdges(),
        FoldScales(),
        ReassociateAggregations(),
        MoveHaloSyncs(),
        OverlapHaloSyncs(),
        MergeHaloSyncs(),
        NarrowHaloRows(),
        FuseReluDropout(),
        WorkInPlace(),
        BucketGradients(),
        HoistGraphConstants(),
    )
    return tuple(step for step in passes if getattr(options, step.name))


def passes_for(options: Options) -> tuple[Pass, ...]:
    """Every pass that these options ask for, in order."""
    return (*correctness_passes(), *optimising_passes(options))


@dataclass(frozen=True)
class Stage:
    """The program as one pass left it."""

    name: str
    edits: int
    program: Program


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; all of :func:`correctness_passes` and :func:`optimising_passes` unless others are given."""

    passes: Sequence[Pass] = field(default_factory=lambda: passes_for(Options()))

    def run(self, program: Program) -> list[Stage]:
        """Every stage, the captured program first; ``program`` itself stays as it is.

        Raises:
            UnsupportedOperation: the model cannot be distributed exactly.
            PlacementError: a pass left something to do, or a graph that does not lint.
        """
        current, numbers = program.copy(), count()
        number_nodes(current.graph, numbers)
        stages = [Stage("capture", 0, current.copy())]
        refresh = InferPlacement()
        for step in self.passes:
            edits = step.run(current)
            current.graph.eliminate_dead_code()
            current.graph.lint()
            refresh.run(current)
            number_nodes(current.graph, numbers)
            stages.append(Stage(step.name, edits, current.copy()))
        check_placed(current)
        stages[-1].program.module.recompile()
        return stages
