"""Seconds to compile a model: its capture, each pass, and what the pipeline does after each; in this process.

Like ``small.py`` one file that needs nothing of this folder, to be run on an older checkout too::

    PYTHONPATH=CHECKOUT python tools/bench/compiling.py > before.json
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphshard
from graphshard.capture.export import capture
from graphshard.execute.bind import bind
from graphshard.options import Options
from graphshard.passes.pipeline import Pipeline

MODELS = ("gcn", "sage", "gat")
LAYERS = (3, 16)
_WIDTH = 16


@dataclass(frozen=True)
class Seconds:
    """What compiling one model took, each the median of the repeats.

    Attributes:
        capture: from the module to a program.
        passes: from that to the program that runs; the next two are its parts.
        own: of each pass itself, by its name, in the order in which they run.
        upkeep: of what the pipeline does after each pass: dead code, lint, placements, a snapshot.
        captured: nodes of the captured program.
        finished: nodes of the program that runs.
    """

    capture: float
    passes: float
    own: dict[str, float]
    upkeep: dict[str, float]
    captured: int
    finished: int


Found = dict[str, Seconds]
"""By model and layers: ``"gcn 3"``."""
Report = Callable[[str, Seconds], None]


class Stack(nn.Module):
    """Convolutions of PyG with a batch norm, a ReLU and a dropout between them."""

    def __init__(self, name: str, layers: int) -> None:
        from torch_geometric.nn import GATConv, GCNConv, SAGEConv

        super().__init__()
        make: dict[str, Callable[[], nn.Module]] = {
            "gcn": lambda: GCNConv(_WIDTH, _WIDTH),
            "sage": lambda: SAGEConv(_WIDTH, _WIDTH),
            "gat": lambda: GATConv(_WIDTH, _WIDTH // 4, heads=4),
        }
        self.convs = nn.ModuleList(make[name]() for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(_WIDTH) for _ in range(layers - 1))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Rows of nodes, ``[N, 16]``."""
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = F.dropout(norm(conv(x, edge_index)).relu(), 0.5, self.training)
        out: Tensor = self.convs[-1](x, edge_index)
        return out


@dataclass
class _Timed:
    """A pass that notes when it began and ended; in everything else the pass itself."""

    step: Any
    marks: list[float] = field(default_factory=list)

    def run(self, *args: Any) -> Any:
        self.marks.append(time.perf_counter())
        edits = self.step.run(*args)
        self.marks.append(time.perf_counter())
        return edits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)


def measure(models: Sequence[str], layers: Sequence[int], repeats: int, report: Report) -> Found:
    """Every model with every number of layers; a first time that is not counted imports what it needs."""
    found: Found = {}
    for model in models:
        _once(model, 2)
        for count in layers:
            runs = [_once(model, count) for _ in range(repeats)]
            found[f"{model} {count}"] = _median(runs)
            report(f"{model} {count}", found[f"{model} {count}"])
    return found


def _once(name: str, layers: int) -> Seconds:
    torch.manual_seed(0)
    model = Stack(name, layers).train()
    graph = torch.rand(20, _WIDTH), torch.stack([torch.arange(60) % 20, torch.arange(60) // 3])
    shard = graphshard.partition(graph, 1)[0]
    signature = bind(model, (shard,), {}, {}, "", {}).signature
    steps = [_Timed(step) for step in Options().all_passes()]
    gc.collect()
    start = time.perf_counter()
    program = capture(model, signature).program
    captured = time.perf_counter()
    stages = Pipeline(steps).run(program)
    end = time.perf_counter()
    after = [*(step.marks[0] for step in steps[1:]), end]
    return Seconds(
        capture=captured - start,
        passes=end - captured,
        own={step.name: step.marks[1] - step.marks[0] for step in steps},
        upkeep={step.name: then - step.marks[1] for step, then in zip(steps, after, strict=True)},
        captured=len(program.graph.nodes),
        finished=len(stages[-1].program.graph.nodes),
    )


def _median(runs: Sequence[Seconds]) -> Seconds:
    return Seconds(
        capture=median(run.capture for run in runs),
        passes=median(run.passes for run in runs),
        own={name: median(run.own[name] for run in runs) for name in runs[0].own},
        upkeep={name: median(run.upkeep[name] for run in runs) for name in runs[0].upkeep},
        captured=runs[0].captured,
        finished=runs[0].finished,
    )


HEADER = f"{'model':<9}{'capture s':>10}{'passes s':>10}{'upkeep s':>10}{'nodes':>15}  slowest passes, s"


def row(label: str, one: Seconds) -> str:
    """A line of the table under :data:`HEADER`; ``passes`` here without their upkeep."""
    slowest = sorted(one.own, key=one.own.__getitem__, reverse=True)[:3]
    return (
        f"{label:<9}{one.capture:>10.3f}{sum(one.own.values()):>10.3f}{sum(one.upkeep.values()):>10.3f}"
        f"{f'{one.captured} -> {one.finished}':>15}  " + ", ".join(f"{n} {one.own[n]:.3f}" for n in slowest)
    )


def table(found: Found) -> list[str]:
    """Milliseconds of every pass, and behind a plus of the upkeep after it."""
    lines = [f"{'ms of pass + upkeep':<26}" + "".join(f"{label:>16}" for label in found)]
    for name in next(iter(found.values())).own:
        cells = (f"{1e3 * one.own[name]:,.1f} + {1e3 * one.upkeep[name]:,.1f}" for one in found.values())
        lines.append(f"{name:<26}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def document(found: Found, repeats: int) -> dict[str, Any]:
    """For JSON."""
    return {"repeats": repeats, "models": {label: asdict(one) for label, one in found.items()}}


def main() -> None:
    """As a script, on whichever graphshard this Python imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--layers", default=",".join(map(str, LAYERS)))
    parser.add_argument("--repeats", type=int, default=3)
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")

    def report(label: str, one: Seconds) -> None:
        print(row(label, one), file=sys.stderr)

    print(HEADER, file=sys.stderr)
    layers = [int(word) for word in wanted.layers.split(",")]
    found = measure(wanted.models.split(","), layers, wanted.repeats, report)
    print("\n".join(table(found)), file=sys.stderr)
    print(json.dumps(document(found, wanted.repeats), indent=1))


if __name__ == "__main__":
    main()
