"""Partition methods side by side on graphs of several kinds: halo rows, the busiest rank, balance, seconds, memory.

Each method runs in a process of its own, ``python -m graphshard.tools.bench.partitioning``, which has compiled its
loops before the clock starts: what a process held at its peak is then that method's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphshard.errors import GraphshardError
from graphshard.partitioning.adjacency import Ends
from graphshard.partitioning.meter import Meter
from graphshard.partitioning.methods import METHODS
from graphshard.partitioning.problem import Problem
from graphshard.tools.bench.generate import Shape, mesh_graph, power_law_graph, radius_graph

GRAPHS = ("power law", "mesh", "radius")


@dataclass(frozen=True)
class Cut:
    """What one method made of one graph.

    Attributes:
        graph, method, parts: which.
        halo: halo rows of all ranks together.
        busiest: rows that one rank sends and receives, of the rank with most of them.
        balance: edges of the largest part over those of an average one.
        seconds: of the assignment alone; shards take as long whatever the method is.
        peak: MiB that the process held at its peak, above the graph.
    """

    graph: str
    method: str
    parts: int
    halo: int
    busiest: int
    balance: float
    seconds: float
    peak: float


def measure(
    graphs: Sequence[str],
    file: Path | None,
    methods: Sequence[str],
    parts: Sequence[int],
    shape: Shape,
    seed: int,
    report: Callable[[Cut], None],
) -> list[Cut]:
    """Every method on every graph, one process after the other; ``file``: an npz beside the generated graphs.

    Raises:
        GraphshardError: a method fails.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as folder:
        for name, arrays in _all_graphs(graphs, file, shape, seed):
            path = Path(folder) / "graph.npz"
            np.savez(path, **arrays)
            for count in parts:
                for method in methods:
                    if method != "rcb" or "pos" in arrays:
                        found.append(Cut(name, method, count, **_apart(path, method, count, seed)))
                        report(found[-1])
    return found


def _all_graphs(
    graphs: Sequence[str], file: Path | None, shape: Shape, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in graphs:
        if name == "power law":
            yield name, {"edge_index": power_law_graph(shape, seed).numpy(), "nodes": shape.nodes}
        else:
            make = mesh_graph if name == "mesh" else radius_graph
            index, pos = make(shape.nodes, seed)
            yield name, {"edge_index": index.numpy(), "nodes": len(pos), "pos": pos.numpy()}
    if file is not None:
        yield file.stem, _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            index = archive["edge_index"].astype(np.int64)
            rows = [len(archive[key]) for key in ("x", "y", "pos") if key in archive.files]
            kept = {"pos": archive["pos"]} if "pos" in archive.files else {}
    except (OSError, KeyError, ValueError) as error:
        raise GraphshardError(
            f"{file} cannot be read as a graph: it needs an array edge_index ({error})"
        ) from error
    return {"edge_index": index, "nodes": max([int(index.max()) + 1, *rows]), **kept}


def _apart(file: Path, method: str, parts: int, seed: int) -> dict[str, Any]:
    """One method in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, str(file), method, str(parts), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise GraphshardError(f"{method} in {parts} parts failed: {said}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def serve(file: str, method: str, parts: str, seed: str) -> None:
    """The process: prints what it measured as JSON."""
    METHODS[method](_small())  # compiles, or loads machine code
    with np.load(file) as archive:
        index, nodes = torch.from_numpy(archive["edge_index"]), int(archive["nodes"])
        positions = torch.from_numpy(archive["pos"]).double() if "pos" in archive.files else None
    weights = torch.bincount(index[1], minlength=nodes) + 1
    problem = Problem((Ends(index),), nodes, int(parts), weights, int(seed), positions)
    _forget_peak()
    meter = Meter()
    owner = METHODS[method](problem)
    seconds, peak = meter.seconds, meter.peak or 0
    print(json.dumps({**counts(index, owner, int(parts)), "seconds": seconds, "peak": peak / (1 << 20)}))


def _small() -> Problem:
    index = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12])
    weights = torch.ones(12, dtype=torch.int64)
    return Problem((Ends(index),), 12, 2, weights, 0, torch.rand(12, 2, dtype=torch.float64))


def _forget_peak() -> None:
    """Let the peak start from here, which Linux alone can."""
    Path("/proc/self/clear_refs").write_text("5")


def counts(index: Tensor, owner: Tensor, parts: int) -> dict[str, float]:
    """``halo``, ``busiest`` and ``balance`` of an assignment."""
    source, destination = index
    reader = owner[destination]
    busy = torch.zeros(parts, dtype=torch.int64)
    for part in range(parts):
        read = torch.zeros(owner.numel(), dtype=torch.bool)
        read[source[reader == part]] = True
        read &= owner != part
        busy[part] += read.sum()
        busy += torch.bincount(owner[read], minlength=parts)
    edges = torch.bincount(reader, minlength=parts)
    balance = float(edges.max()) * parts / max(reader.numel(), 1)
    return {"halo": int(busy.sum()) // 2, "busiest": int(busy.max()), "balance": balance}


def row(one: Cut) -> str:
    """A line of the table."""
    return (
        f"{one.graph:<18}{one.parts:>6}  {one.method:<14}{one.halo:>10,}{one.busiest:>10,}{one.balance:>9.3f}"
        f"{one.seconds:>9.2f} s{one.peak:>9.0f} MiB"
    )


HEADER = (
    f"{'graph':<18}{'parts':>6}  {'method':<14}{'halo rows':>10}{'busiest':>10}{'balance':>9}"
    f"{'time':>11}{'peak':>13}"
)

if __name__ == "__main__":
    serve(*sys.argv[1:])
