"""Rows that ranks send for a sum, raw or preaggregated: counted on simulated ranks, and timed on real ones."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import graphshard
from graphshard import Options
from graphshard.ops.aggregation import edge_structure
from graphshard.ops.preaggregation import Preaggregation, preaggregation
from graphshard.passes.faster.cost_model import Speeds
from graphshard.ranks.launch import launch
from graphshard.ranks.simulate import run_ranks
from graphshard.tools.bench import pyg_models
from graphshard.tools.bench.worker import forget_peak, memory

WAYS = {
    "raw rows": Options(preaggregate_halo_rows=False),
    "preaggregated": Options(preaggregate_halo_rows=True),
}
WIDTHS = (100, 256, 47)
"""Features, hidden numbers and classes of the models that are timed."""


@dataclass(frozen=True)
class Rows:
    """What the ranks of one partition send in one direction of one sum; as many come back.

    Attributes:
        parts: k.
        raw: halo rows of all parts.
        sent: rows of all parts with a preaggregation.
        sums: of these, sums of two rows and more.
        largest_raw, largest_sent: rows that come to the part to which most come; they are there for one block of
            columns at a time.
        seconds: to find the covers and to tell the others, on the slowest of ``parts`` threads.
    """

    parts: int
    raw: int
    sent: int
    sums: int
    largest_raw: int
    largest_sent: int
    seconds: float

    @property
    def saved(self) -> float:
        """The share of the rows, and so of the bytes, that is not sent."""
        return 1 - self.sent / max(self.raw, 1)


@dataclass(frozen=True)
class Step:
    """Of one model in one way.

    Attributes:
        median, least: seconds of a step, forward, backward and Adam, on the slowest rank.
        first: seconds of the first step, with what is done once for each graph.
        sent: bytes that all ranks send in halo exchanges in a step.
        peak: MiB that the largest rank held at its peak above what it held before.
        loss: of the first step.
    """

    median: float
    least: float
    first: float
    sent: int
    peak: float
    loss: float


def rows(edge_index: Tensor, nodes: int, parts: int, seed: int) -> Rows:
    """Partition by METIS as graphshard does, and let simulated ranks agree on what they send."""
    shards = graphshard.partition({"edge_index": edge_index}, parts, num_nodes=nodes, seed=seed)

    def rank(number: int, group: str, _: Any) -> tuple[int, int, int, int, float]:
        shard = shards[number]
        halo, owned = shard.halo, shard.num_owned
        source, destination = shard["edge_index"].local()
        structure = edge_structure(destination, source, owned, owned + halo.num_halo)
        plan = (halo.send_index, list(halo.send_splits), list(halo.recv_splits), group)
        start = time.perf_counter()
        made = Preaggregation.of(preaggregation(None, structure, *plan, Speeds().terms_of_a_row))
        seconds = time.perf_counter() - start
        sums = int((made.forward.sent.start.diff() > 1).sum())
        return halo.num_halo, *made.splits.sum(1).tolist(), sums, seconds

    raw, sent, received, sums, seconds = zip(*run_ranks(parts, rank, timeout=3600.0), strict=True)
    return Rows(parts, sum(raw), sum(sent), sum(sums), max(raw), max(received), max(seconds))


def steps(
    edge_index: Tensor,
    nodes: int,
    ranks: int,
    models: Sequence[str],
    turns: int,
    seed: int,
    report: Callable[[str, str, Step], None],
) -> dict[str, dict[str, Step]]:
    """Training steps of each model on real ranks, with raw rows and preaggregated, in turn in the same processes.

    The peaks are those of further processes, each of which trains in one way.
    """
    random = torch.Generator().manual_seed(seed)
    features, _, classes = WIDTHS
    data = {
        "edge_index": edge_index,
        "x": torch.randn(nodes, features, generator=random),
        "y": torch.randint(classes, (nodes,), generator=random),
        "train_mask": torch.rand(nodes, generator=random) < 0.5,
    }
    found: dict[str, dict[str, Step]] = {}
    with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as folder:
        graphshard.partition(data, ranks, seed=seed).save(folder)
        for model in models:
            timed = launch(_timed, ranks, (folder, model, WAYS, turns), run_timeout=3600)
            found[model] = {}
            for way, options in WAYS.items():
                alone = launch(_timed, ranks, (folder, model, {way: options}, 1), run_timeout=3600)
                found[model][way] = _step([rank[way] for rank in timed], [rank[way] for rank in alone])
                report(model, way, found[model][way])
    return found


def _step(timed: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]]) -> Step:
    slowest = [max(each) for each in zip(*(rank["seconds"] for rank in timed), strict=True)]
    return Step(
        median=median(slowest),
        least=min(slowest),
        first=max(rank["first"] for rank in timed),
        sent=sum(rank["sent"] for rank in timed),
        peak=max(rank["peak"] for rank in alone),
        loss=timed[0]["loss"],
    )


def _timed(folder: str, name: str, ways: Mapping[str, Options], turns: int) -> dict[str, Any]:
    """One rank: a step in each way, in turn."""
    shard = graphshard.load_shard(Path(folder))
    features, hidden, classes = WIDTHS
    runs: dict[str, Callable[[], tuple[float, float]]] = {}
    before = memory("VmRSS")
    forget_peak()
    found: dict[str, dict[str, Any]] = {}
    for way, options in ways.items():
        torch.manual_seed(0)  # each process is a rank
        module = pyg_models.make(name, features, hidden, classes)
        runs[way] = _run(graphshard.distribute(module, seed=0, options=options), shard)
        first, loss = runs[way]()
        with graphshard.count_bytes() as counter:
            runs[way]()
        found[way] = {"first": first, "loss": loss, "sent": counter.halo_bytes, "seconds": []}
    for _ in range(turns):
        for way, run in runs.items():
            found[way]["seconds"].append(run()[0])
    for each in found.values():
        each["peak"] = memory("VmHWM") - before
    return found


def _run(model: Any, shard: Any) -> Callable[[], tuple[float, float]]:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        optimiser.zero_grad()
        loss = F.cross_entropy(model(shard)[shard.train_mask], shard.y[shard.train_mask])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return time.perf_counter() - start, loss.item()

    return run
