"""Peak memory of a rank and seconds of a step, of three layers; each system runs by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphshard.errors import GraphshardError
from graphshard.ranks.memory import allocator_environment
from graphshard.tools.bench.systems import Measured, System, measure

MODELS = {
    "sage3-dropout": "GraphSAGE, dropout 0.5",
    "sage3": "GraphSAGE, no dropout",
    "gat3-dropout": "GAT, 4 heads, dropout 0.5",
}
"""What they are called in tables, by the names of ``pyg_models``."""

_ALONE = ("gat3-dropout",)
"""Models that PyG does not run here: its GAT makes a row of all heads for each edge, 25 GB of this graph's."""
WIDTHS = (100, 256, 47)
"""Features, hidden numbers and classes: of ogbn-products, and of OGB's own example for it."""


@dataclass(frozen=True)
class Footprint:
    """What one system took for one model.

    Attributes:
        peak: GiB that the largest process held at its peak, resident.
        above: GiB of that which it did not hold before the first step: programs, torch and, unless its pages are
            read when they are needed, the graph.
        seconds: of every counted step, forward, backward and Adam, on the slowest rank.
        median: of these.
        cpu: seconds of a core that a step took, of all ranks together.
        loss: of the first step.
        allocator: "mimalloc", or "system" for the C library's.
    """

    peak: float
    above: float
    seconds: list[float]
    median: float
    cpu: float
    loss: float
    allocator: str


def systems(ranks: int, cores: int) -> list[System]:
    """graphshard's ranks, and PyG with the whole graph on one machine, with as many cores."""
    threads = max(1, cores // ranks)
    each = f"{threads} thread{'s' * (threads > 1)}"
    return [
        System(f"graphshard, {ranks} ranks x {each}", "graphshard", ranks, threads),
        System(f"PyG CSR, whole graph, {cores} threads", "pyg", 1, cores, "csr"),
    ]


def footprints(
    folder: Path,
    ranks: int,
    cores: int,
    steps: int,
    report: Callable[[str, str, Footprint], None],
    models: Sequence[str] = tuple(MODELS),
) -> dict[str, dict[str, Footprint]]:
    """Every model on every system, one at a time, so that none has to share the machine's memory.

    Raises:
        GraphshardError: a system fails, or two do not compute the same.
    """
    found: dict[str, dict[str, Footprint]] = {}
    for model in models:
        found[model] = {}
        for system in systems(ranks, cores)[: 1 if model in _ALONE else None]:
            measured = measure(model, [system], folder, steps, turn=0.0)[system.label]
            found[model][system.label] = _footprint(system, measured)
            report(model, system.label, found[model][system.label])
    _check([one.loss for one in found.get("sage3", {}).values()])
    return found


def _footprint(system: System, measured: Measured) -> Footprint:
    ours = system.module == "graphshard" and bool(allocator_environment())
    return Footprint(
        peak=max(measured.peaks) / 1024,
        above=measured.memory / system.ranks / 1024,
        seconds=measured.seconds,
        median=measured.median,
        cpu=measured.cpu,
        loss=measured.loss,
        allocator="mimalloc" if ours else "system" if "LD_PRELOAD" not in os.environ else "LD_PRELOAD",
    )


def _check(losses: Sequence[float]) -> None:
    """With dropout, PyTorch's masks are others than graphshard's; without, nothing differs."""
    if losses and max(losses) - min(losses) > 1e-5 * max(losses):
        raise GraphshardError(f"the systems do not compute the same GraphSAGE: first losses {losses}")
