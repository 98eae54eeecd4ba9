"""graphshard: exact distributed training of graph neural networks.

    model -> capture -> infer placement -> insert halo sync -> run on every rank -> prove

``distribute(model)`` turns a single-machine PyTorch or PyG module into one that trains on every rank, each
holding one part of the graph, with the same outputs, loss and gradients.
"""

from graphshard.api import DistributedModule, distribute
from graphshard.check import Report, verify
from graphshard.differ import Diff
from graphshard.errors import (
    CaptureError,
    DataError,
    GraphshardError,
    PartitionError,
    PlacementError,
    RuntimeMismatch,
    ShardError,
    UnsupportedOperation,
)
from graphshard.inspect_model import diff
from graphshard.ops import ByteCounter, count_bytes
from graphshard.partition import ShardedGraph, partition
from graphshard.partition_report import PartitionReport
from graphshard.passes.pipeline import Options
from graphshard.reductions import mean, sum
from graphshard.roles import Role
from graphshard.rules import register_rule
from graphshard.shard import Shard
from graphshard.shard_io import load_shard

__all__ = [
    "ByteCounter",
    "CaptureError",
    "DataError",
    "Diff",
    "DistributedModule",
    "GraphshardError",
    "Options",
    "PartitionError",
    "PartitionReport",
    "PlacementError",
    "Report",
    "Role",
    "RuntimeMismatch",
    "Shard",
    "ShardError",
    "ShardedGraph",
    "UnsupportedOperation",
    "count_bytes",
    "diff",
    "distribute",
    "load_shard",
    "mean",
    "partition",
    "register_rule",
    "sum",
    "verify",
]
