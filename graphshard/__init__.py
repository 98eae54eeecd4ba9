"""graphshard: exact distributed training of graph neural networks.

    model -> capture -> infer placement -> insert halo sync -> run on every rank -> prove

``distribute(model)`` turns a single-machine PyTorch or PyG module into one that trains on every rank, each
holding one part of the graph, with the same outputs, loss and gradients.

Names are imported on first use (PEP 562): ``import graphshard`` alone does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphshard.api import DistributedModule, distribute
    from graphshard.border.totals import mean, sum
    from graphshard.capture.replacements import replace
    from graphshard.check.report import Report
    from graphshard.check.verify import verify
    from graphshard.checkpoint.load import Checkpoint, load_checkpoint
    from graphshard.checkpoint.save import save_checkpoint
    from graphshard.errors import (
        CaptureError,
        CheckpointError,
        DataError,
        GraphshardError,
        PartitionError,
        PlacementError,
        RuntimeMismatch,
        ShardError,
        UnsupportedOperation,
    )
    from graphshard.graph.roles import Role
    from graphshard.ops.exchange import ByteCounter, count_bytes
    from graphshard.options import Options
    from graphshard.partitioning.from_files import partition_files
    from graphshard.partitioning.partition import ShardedGraph, partition
    from graphshard.partitioning.report import PartitionReport
    from graphshard.planning.link import Link
    from graphshard.planning.plan import Plan, Planned, plan
    from graphshard.preview import diff
    from graphshard.ranks.start import init
    from graphshard.rules import register_rule
    from graphshard.shard.files import load_shard
    from graphshard.shard.placed import PlacedTensor
    from graphshard.shard.shard import Shard
    from graphshard.show.differ import Diff
    from graphshard.training.report import TrainingReport
    from graphshard.training.verify import verify_training
    from graphshard.version import __version__

__all__ = [
    "ByteCounter",
    "CaptureError",
    "Checkpoint",
    "CheckpointError",
    "DataError",
    "Diff",
    "DistributedModule",
    "GraphshardError",
    "Link",
    "Options",
    "PartitionError",
    "PartitionReport",
    "PlacedTensor",
    "PlacementError",
    "Plan",
    "Planned",
    "Report",
    "Role",
    "RuntimeMismatch",
    "Shard",
    "ShardError",
    "ShardedGraph",
    "TrainingReport",
    "UnsupportedOperation",
    "__version__",
    "count_bytes",
    "diff",
    "distribute",
    "init",
    "load_checkpoint",
    "load_shard",
    "mean",
    "partition",
    "partition_files",
    "plan",
    "register_rule",
    "replace",
    "save_checkpoint",
    "sum",
    "verify",
    "verify_training",
]

_HOMES = {
    "api": ("DistributedModule", "distribute"),
    "capture.replacements": ("replace",),
    "check.report": ("Report",),
    "check.verify": ("verify",),
    "checkpoint.load": ("Checkpoint", "load_checkpoint"),
    "checkpoint.save": ("save_checkpoint",),
    "show.differ": ("Diff",),
    "errors": (
        "CaptureError",
        "CheckpointError",
        "DataError",
        "GraphshardError",
        "PartitionError",
        "PlacementError",
        "RuntimeMismatch",
        "ShardError",
        "UnsupportedOperation",
    ),
    "preview": ("diff",),
    "ops.exchange": ("ByteCounter", "count_bytes"),
    "partitioning.from_files": ("partition_files",),
    "partitioning.partition": ("ShardedGraph", "partition"),
    "partitioning.report": ("PartitionReport",),
    "planning.link": ("Link",),
    "planning.plan": ("Plan", "Planned", "plan"),
    "options": ("Options",),
    "border.totals": ("mean", "sum"),
    "graph.roles": ("Role",),
    "ranks.start": ("init",),
    "rules": ("register_rule",),
    "shard.placed": ("PlacedTensor",),
    "shard.shard": ("Shard",),
    "shard.files": ("load_shard",),
    "training.report": ("TrainingReport",),
    "training.verify": ("verify_training",),
    "version": ("__version__",),
}
"""Each module with the public names that it holds."""


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'graphshard' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"graphshard.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
