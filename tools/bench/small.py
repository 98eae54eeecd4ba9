"""Microseconds of a training step on graphs so small that its arithmetic takes next to none of them.

One file that needs nothing of this folder, so that it can be run on an older checkout too, for a before and an after;
as a script it prints the table to stderr and JSON to stdout::

    PYTHONPATH=CHECKOUT python tools/bench/small.py > before.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
import torch.nn.functional as F

import graphshard
from graphshard.ranks.launch import launch
from graphshard.tools.data.sources import load_data
from graphshard.tools.targets.load import Target, load_target

MODELS = ("gcn", "sage", "gat")
"""The command line's own: 2 layers, 16 hidden numbers (of each of 4 heads in ``gat``), dropout 0.5."""
_WARM_UP = 10


@dataclass(frozen=True)
class Step:
    """What the steps of one model on one graph took: forward, loss, backward and Adam.

    Attributes:
        median: microseconds of a counted step on the slowest rank.
        quartiles: a quarter of the steps took less than the first, a quarter more than the second.
        cpu: microseconds of cores that a step took, of all ranks together; others that run on the machine change it
            less than they change ``median``.
        first: seconds of the very first step: capture, passes, compiling, constants of the graph.
        peak: MiB that the largest process held at its peak, in the counted steps.
        before: MiB that it held before its first step.
        loss: of the last step; where it differs, so does what is computed.
    """

    median: float
    quartiles: tuple[float, float]
    cpu: float
    first: float
    peak: float
    before: float
    loss: float


Found = dict[str, dict[str, Step]]
"""By graph and model."""
Report = Callable[[str, str, Step], None]


def measure(graphs: Sequence[str], models: Sequence[str], ranks: int, steps: int, report: Report) -> Found:
    """Every model on every graph, one after the other, each by processes of its own.

    Args:
        graphs: what ``graphshard train`` takes for DATA.
        models: of :data:`MODELS`.
        ranks: processes.
        steps: that are counted, at least 2.
        report: called after each.
    """
    found: Found = {}
    for spec in graphs:
        data = load_data(spec)
        found[data.name] = {}
        with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as folder:
            graphshard.partition(data, ranks, seed=0).save(Path(folder) / "shards")
            for model in models:
                target = load_target(model, data, hidden=16, layers=2, dropout=0.5)
                answers = launch(run_rank, ranks, (target, f"{folder}/shards", steps), run_timeout=3600)
                found[data.name][model] = _step(answers)
                report(data.name, model, found[data.name][model])
    return found


def _step(answers: Sequence[dict[str, Any]]) -> Step:
    slowest = [1e6 * max(each) for each in zip(*(a["seconds"] for a in answers), strict=True)]
    low, middle, high = quantiles(slowest, n=4, method="inclusive")
    return Step(
        median=middle,
        quartiles=(low, high),
        cpu=1e6 * sum(a["cpu"] for a in answers) / len(slowest),
        first=max(a["first"] for a in answers),
        peak=max(a["peak"] for a in answers),
        before=max(a["before"] for a in answers),
        loss=answers[0]["loss"],
    )


def run_rank(target: Target, folder: str, steps: int) -> dict[str, Any]:
    """One rank: its steps, timed one by one."""
    warnings.simplefilter("ignore")
    shard = graphshard.load_shard(folder)
    model = graphshard.distribute(target(), seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    mask = shard.train_mask
    labels = shard.y[mask]

    def step() -> float:
        start = time.perf_counter()
        optimiser.zero_grad()
        loss = graphshard.mean(F.cross_entropy(model(shard)[mask], labels, reduction="none"))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
        return time.perf_counter() - start

    losses: list[torch.Tensor] = []
    before = _memory("VmRSS")
    first = step()
    for _ in range(_WARM_UP):
        step()
    _forget_peak()
    cpu = time.process_time()
    seconds = [step() for _ in range(steps)]
    cpu = time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu": cpu,
        "first": first,
        "peak": _memory("VmHWM"),
        "before": before,
        "loss": losses[-1].item(),
    }


def _memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")


HEADER = (
    f"{'graph':<10}{'model':<6}{'us a step':>10}{'quartiles':>19}{'us of cores':>13}{'first s':>9}{'MiB':>8}"
)


def row(graph: str, model: str, one: Step) -> str:
    """A line of the table under :data:`HEADER`."""
    between = f"{one.quartiles[0]:,.0f} .. {one.quartiles[1]:,.0f}"
    return f"{graph:<10}{model:<6}{one.median:>10,.0f}{between:>19}{one.cpu:>13,.0f}{one.first:>9.2f}{one.peak:>8.0f}"


def document(found: Found, ranks: int, steps: int) -> dict[str, Any]:
    """For JSON."""
    graphs = {graph: {model: asdict(one) for model, one in each.items()} for graph, each in found.items()}
    return {"ranks": ranks, "steps": steps, "graphs": graphs}


def main() -> None:
    """As a script, on whichever graphshard this Python imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cora", metavar="DATA")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150)
    wanted = parser.parse_args()

    def report(graph: str, model: str, one: Step) -> None:
        print(row(graph, model, one), file=sys.stderr)

    print(HEADER, file=sys.stderr)
    graphs = ["karate", *([wanted.cora] if wanted.cora else [])]
    found = measure(graphs, wanted.models.split(","), wanted.ranks, wanted.steps, report)
    print(json.dumps(document(found, wanted.ranks, wanted.steps), indent=1))


if __name__ == "__main__":
    main()
