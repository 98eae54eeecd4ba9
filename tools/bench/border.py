"""What the border costs: one training step written in three ways, in turn in the same processes; and a gather alone.

::

    local    the loss of this rank's rows by hand: .local(), graphshard.mean
    shard    the loss as on one machine: F.cross_entropy(out[mask], y[mask])
    whole    whole tensors in, whole rows out, the same line
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import graphshard
from graphshard.ops.gather import gather_rows
from graphshard.ranks.launch import launch
from graphshard.ranks.memory import peak_memory
from graphshard.tools.data.sources import load_data
from graphshard.tools.targets.load import Target, load_target

WAYS = ("local", "shard", "whole")
_WARM_UP = 10


@dataclass(frozen=True)
class Cost:
    """Of one model on one graph.

    Attributes:
        local, shard, whole: microseconds of a step, the median of the slowest rank's.
        difference: microseconds that ``shard`` takes more than ``local``, the median of pairs of steps.
        peak: MiB that the largest process held.
        losses: of the last step, in the order of the ways: equal.
    """

    local: float
    shard: float
    whole: float
    difference: float
    peak: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Gather:
    """Seconds to bring ``[rows, columns]`` float32 to every rank, and back, on the slowest rank; MiB at the peak."""

    rows: int
    columns: int
    forward: float
    backward: float
    peak: float


def measure(
    spec: str, models: Sequence[str], ranks: int, steps: int, report: Callable[[str, Cost], None]
) -> None:
    """Every model on one graph, each by processes of its own.

    Args:
        spec: what ``graphshard train`` takes for DATA.
        models: the command line's own.
        ranks: processes. steps: of each way, that are counted.
        report: called after each model.
    """
    data = load_data(spec)
    with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as folder:
        graphshard.partition(data, ranks, seed=0).save(Path(folder) / "shards")
        for model in models:
            target = load_target(model, data, hidden=16, layers=2, dropout=0.0)
            answers = launch(_steps, ranks, (target, spec, f"{folder}/shards", steps), run_timeout=3600)
            times = {
                way: [max(each) for each in zip(*(a[way] for a in answers), strict=True)] for way in WAYS
            }
            more = [shard - own for shard, own in zip(times["shard"], times["local"], strict=True)]
            middle = {way: 1e6 * median(times[way]) for way in WAYS}
            cost = Cost(
                **middle,
                difference=1e6 * median(more),
                peak=max(a["peak"] for a in answers),
                losses=answers[0]["losses"],
            )
            report(model, cost)


def _steps(target: Target, spec: str, folder: str, steps: int) -> dict[str, Any]:
    """One rank: the three ways in turn."""
    warnings.simplefilter("ignore")
    shard, data = graphshard.load_shard(folder), load_data(spec).tensors
    whole = {name: data[name] for name in ("x", "edge_index", "y", "train_mask")}

    def local(graph: Any, model: Any) -> Tensor:
        mask = graph.train_mask.local()
        rows = F.cross_entropy(model(graph).local()[mask], graph.y.local()[mask], reduction="none")
        return graphshard.mean(rows)

    def as_on_one(graph: Any, model: Any) -> Tensor:
        return F.cross_entropy(model(graph)[graph.train_mask], graph.y[graph.train_mask])

    def all_rows(graph: Any, model: Any) -> Tensor:
        out = model(graph["x"], graph["edge_index"])
        return F.cross_entropy(out[graph["train_mask"]], graph["y"][graph["train_mask"]])

    runs: dict[str, Callable[[], float]] = {}
    losses: dict[str, float] = {}
    for way, loss_of, graph in (
        ("local", local, shard),
        ("shard", as_on_one, shard),
        ("whole", all_rows, whole),
    ):
        model = graphshard.distribute(target(), seed=0)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        runs[way] = _step(way, loss_of, graph, model, optimiser, losses)
    for _ in range(_WARM_UP):
        for run in runs.values():
            run()
    found: dict[str, Any] = {way: [] for way in WAYS}
    for _ in range(steps):
        for way, run in runs.items():
            found[way].append(run())
    return found | {"peak": peak_memory() / 2**20, "losses": tuple(losses.values())}


def _step(
    way: str, loss_of: Any, graph: Any, model: Any, optimiser: Any, losses: dict[str, float]
) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        optimiser.zero_grad()
        loss = loss_of(graph, model)
        loss.backward()
        optimiser.step()
        seconds = time.perf_counter() - start
        losses[way] = loss.item()
        return seconds

    return run


def gather(rows: int, columns: int, ranks: int) -> Gather:
    """The gather of whole mode alone, the median of five."""
    answers = launch(_gather, ranks, (rows, columns), run_timeout=3600)
    forward, backward = (max(a[i] for a in answers) for i in range(2))
    return Gather(rows, columns, forward, backward, max(a[2] for a in answers))


def _gather(rows: int, columns: int) -> tuple[float, float, float]:
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = torch.distributed.group.WORLD
    assert world is not None
    mine = torch.rand(len(range(rank, rows, size)), columns, requires_grad=True)
    ids = torch.arange(rank, rows, size)
    forward, backward = [], []
    for _ in range(5):
        start = time.perf_counter()
        whole = gather_rows(mine, ids, rows, str(world.group_name))
        middle = time.perf_counter()
        whole.sum().backward()
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    return median(forward), median(backward), peak_memory() / 2**20


HEADER = f"{'model':<8}{'local us':>10}{'shard us':>10}{'whole us':>10}{'shard - local':>15}{'MiB':>7}"


def row(model: str, cost: Cost) -> str:
    """A line of the table under :data:`HEADER`."""
    return (
        f"{model:<8}{cost.local:>10,.0f}{cost.shard:>10,.0f}{cost.whole:>10,.0f}{cost.difference:>15,.0f}"
        f"{cost.peak:>7.0f}"
    )


def document(costs: dict[str, Cost], gathered: Gather, ranks: int, steps: int) -> dict[str, Any]:
    """For JSON."""
    models = {model: asdict(cost) for model, cost in costs.items()}
    return {"ranks": ranks, "steps": steps, "models": models, "gather": asdict(gathered)}
