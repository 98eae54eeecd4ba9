"""What ``graphshard.plan`` says beside what real ranks take: bytes, memory and seconds of a step."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import graphshard
from graphshard.options import Options
from graphshard.planning.trial import Trial, together
from graphshard.ranks.launch import launch
from graphshard.tools.bench import pyg_models
from graphshard.tools.bench.generate import Shape, power_law_graph

MODELS = {
    "sage": "GraphSAGE, mean",
    "gcn": "GCN",
    "gat": "GAT, 4 heads",
    "mesh": "MeshGraphNet, 3 steps",
}
_FEATURES, _CLASSES = 64, 32


@dataclass(frozen=True)
class Compared:
    """One model on one number of ranks: planned, and what a launch of that many ranks took.

    Attributes:
        sent: bytes that all ranks together sent in a step. peak: bytes of the largest rank. seconds: of a step.
    """

    parts: int
    planned_sent: int
    sent: int
    planned_peak: int
    peak: int
    planned_seconds: float
    seconds: float
    tried: float


def compared(
    shape: Shape, models: Sequence[str], parts: Sequence[int], hidden: int, seed: int
) -> Iterator[tuple[str, Compared]]:
    """Each model on each number of ranks; first planned, then run."""
    data = {"x": _features(shape, seed), "edge_index": power_law_graph(shape, seed)}
    for name in models:
        model = functools.partial(pyg_models.make, name, _FEATURES, hidden, _CLASSES)
        found = graphshard.plan(model, data, parts, seed=seed)
        for run in found.runs:
            real = _run(model, data, run.parts, seed)
            yield (
                name,
                Compared(
                    parts=run.parts,
                    planned_sent=run.sent,
                    sent=sum(one.sent for one in real),
                    planned_peak=run.peak,
                    peak=max(one.peak for one in real),
                    planned_seconds=run.seconds,
                    seconds=max(one.seconds for one in real),
                    tried=run.tried,
                ),
            )


def _run(
    model: functools.partial[torch.nn.Module], data: dict[str, Tensor], parts: int, seed: int
) -> list[Trial]:
    with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as scratch:
        folder = Path(scratch) / "shards"
        graphshard.partition(data, parts, seed=seed).save(folder)
        return launch(together, parts, (model, str(folder), Options()), run_timeout=float("inf"))


def _features(shape: Shape, seed: int) -> Tensor:
    return torch.randn(shape.nodes, _FEATURES, generator=torch.Generator().manual_seed(seed))
