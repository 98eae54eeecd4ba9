"""The pipeline: runs passes one after the other and keeps every stage for ``graphshard diff``.

The order is that of :data:`EXACT`, then a user's own (``Options.passes``), then those of :data:`FASTER` that
``Options`` asks for.

The pipeline alone copies, numbers nodes, lints, recompiles and checks placements.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from graphshard.errors import PlacementError
from graphshard.infer.placement import check_placed, place_all
from graphshard.ir.identity import number_nodes
from graphshard.ir.program import Pass, Program, Stage
from graphshard.passes.exact.distribute_batch_norm import DistributeBatchNorm
from graphshard.passes.exact.distribute_dropout import DistributeDropout
from graphshard.passes.exact.distribute_random import DistributeRandom
from graphshard.passes.exact.expand_extremes import ExpandExtremes
from graphshard.passes.exact.expand_losses import ExpandLosses
from graphshard.passes.exact.expand_reductions import ExpandReductions
from graphshard.passes.exact.expand_scatters import ExpandScatters
from graphshard.passes.exact.globalize_ids import GlobalizeIds
from graphshard.passes.exact.infer_placement import InferPlacement
from graphshard.passes.exact.insert_all_reduce import InsertAllReduce
from graphshard.passes.exact.insert_halo_sync import InsertHaloSync
from graphshard.passes.exact.localize_ids import LocalizeIds
from graphshard.passes.exact.return_row_ids import ReturnRowIds
from graphshard.passes.exact.stack_reductions import StackReductions
from graphshard.passes.exact.sum_gradients import SumGradients
from graphshard.passes.faster.bucket_gradients import BucketGradients
from graphshard.passes.faster.fold_scales import FoldScales
from graphshard.passes.faster.free_constants import FreeConstants
from graphshard.passes.faster.fuse_relu_dropout import FuseReluDropout
from graphshard.passes.faster.fuse_root_weights import FuseRootWeights
from graphshard.passes.faster.hoist_graph_constants import HoistGraphConstants
from graphshard.passes.faster.lower_aggregations import LowerAggregations
from graphshard.passes.faster.merge_halo_syncs import MergeHaloSyncs
from graphshard.passes.faster.move_halo_syncs import MoveHaloSyncs
from graphshard.passes.faster.narrow_halo_rows import NarrowHaloRows
from graphshard.passes.faster.overlap_halo_syncs import OverlapHaloSyncs
from graphshard.passes.faster.preaggregate_halo_rows import PreaggregateHaloRows
from graphshard.passes.faster.reassociate_aggregations import ReassociateAggregations
from graphshard.passes.faster.sort_edges import SortEdges
from graphshard.passes.faster.split_edge_products import SplitEdgeProducts
from graphshard.passes.faster.stream_halo_syncs import StreamHaloSyncs
from graphshard.passes.faster.work_in_place import WorkInPlace

EXACT: tuple[Pass, ...] = (
    InferPlacement(),
    GlobalizeIds(),
    LocalizeIds(),
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
    ReturnRowIds(),
    SumGradients(),
)
"""The passes that make a program exact on any number of ranks, in order."""

FASTER: tuple[Pass, ...] = (
    FreeConstants(),
    LowerAggregations(),
    SortEdges(),
    SplitEdgeProducts(),
    FoldScales(),
    ReassociateAggregations(),
    MoveHaloSyncs(),
    OverlapHaloSyncs(),
    MergeHaloSyncs(),
    NarrowHaloRows(),
    StreamHaloSyncs(),
    PreaggregateHaloRows(),
    FuseReluDropout(),
    FuseRootWeights(),
    WorkInPlace(),
    BucketGradients(),
    HoistGraphConstants(),
)
"""The passes that make an exact program faster, in order. A pass with ``chosen = False`` runs where it is asked for.

`graphshard.Options`, the flags of the command line and the table of docs/design.md are made of this tuple.
"""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; ``graphshard.Options`` says which of :data:`FASTER` run behind :data:`EXACT`."""

    passes: Sequence[Pass]

    def run(self, program: Program) -> list[Stage]:
        """Every stage, the captured program first; ``program`` itself stays as it is.

        Raises:
            UnsupportedOperation: the model cannot be distributed exactly.
            PlacementError: a pass left something to do, or a graph that does not lint.
        """
        current, numbers = program.copy(), count()
        number_nodes(current.graph, numbers)
        stages = [Stage("capture", 0, current.copy())]
        before = _state(current)
        for step in self.passes:
            edits = step.run(current)
            _tidy(current, step)
            place_all(current)
            number_nodes(current.graph, numbers)
            after = _state(current)
            unchanged = edits == 0 and after == before
            program = stages[-1].program if unchanged else current.copy()
            stages.append(Stage(step.name, edits, program, purpose(step)))
            before = after
        check_placed(current)
        stages[-1].program.module.recompile()
        return stages


def _state(program: Program) -> Any:
    """What a pass may edit of a program; of two that are equal, one copy is enough."""
    nodes = [(n, n.target, n.args, n.kwargs, n.meta.get("placement")) for n in program.graph.nodes]
    return nodes, list(program.inputs), list(program.outputs), dict.fromkeys(program.constants)


def _tidy(program: Program, step: Pass) -> None:
    """Remove what nobody reads, and see that every node comes after those that it reads."""
    try:
        program.graph.eliminate_dead_code()
        program.graph.lint()
    except RuntimeError as error:
        problem = str(error).partition("\n")[0]
        raise PlacementError(
            f"the pass {step.name} left nodes that do not fit together: {problem}"
        ) from error


def purpose(step: Pass) -> str:
    """What a pass does: the line that its file begins with, or else its class."""
    file = inspect.getdoc(inspect.getmodule(type(step))) or ""
    head, colon, rest = file.partition("\n")[0].partition(f"{step.name}: ")
    said = rest if colon and not head else (inspect.getdoc(type(step)) or "").partition("\n")[0]
    return said.rstrip(".")
