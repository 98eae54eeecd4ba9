"""Training epochs of several systems on one graph: all are up at once and take turns, so that noise hits all alike."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import graphshard
from graphshard.errors import GraphshardError
from graphshard.ranks.memory import allocator_environment
from graphshard.tools.bench.generate import Shape, power_law_graph

WORKER = Path(__file__).with_name("worker.py")
_END_SECONDS = 20.0


@dataclass(frozen=True)
class System:
    """One way to train: processes of a Python, with threads each.

    Attributes:
        label: names it in tables and pictures.
        module: ``system_<module>.py``.
        ranks, threads: processes, and threads of each.
        adjacency: "edges" or "csr".
        python: what runs it.
    """

    label: str
    module: str
    ranks: int
    threads: int
    adjacency: str = "edges"
    python: str = sys.executable


def systems_of(model: str, cores: int, dgl_python: str | None) -> list[System]:
    """graphshard as ranks and as threads, PyG's two forms, and DGL where a Python has it.

    A "mesh" computes with each edge, which neither a matrix nor a layer of DGL says.
    """
    found = [
        System(f"graphshard, {cores} ranks x 1 thread", "graphshard", cores, 1),
        System(f"graphshard, 1 rank x {cores} threads", "graphshard", 1, cores),
        System(f"PyG edge_index, {cores} threads", "pyg", 1, cores),
    ]
    if model == "mesh":
        return found
    found.append(System(f"PyG CSR, {cores} threads", "pyg", 1, cores, "csr"))
    if dgl_python is not None:
        found.append(System(f"DGL, {cores} threads", "dgl", 1, cores, python=dgl_python))
    return found


@dataclass
class Measured:
    """What one system took for one model.

    Attributes:
        seconds: of every counted epoch, on the slowest rank.
        cpu: seconds of a core that an epoch of the last turn took, of all processes together; others that run on
            the machine change it less than they change ``seconds``.
        first: seconds of the very first epoch: capture, passes, compiling, constants of the graph.
        loss: of the first epoch.
        before: MiB held before training: programs, graph and model, of all ranks together.
        memory: MiB above that, at each one's peak.
        peaks: MiB that each rank holds at its peak, all that it held before training included.
        sent: bytes that the rank that sends most sends in an epoch.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0
    first: float = 0.0
    loss: float = 0.0
    before: float = 0.0
    memory: float = 0.0
    peaks: list[float] = field(default_factory=list)
    sent: int = 0

    @property
    def median(self) -> float:
        return median(self.seconds)


def write_graph(
    folder: Path, shape: Shape, widths: tuple[int, int, int], ranks: Sequence[int], seed: int
) -> None:
    """The graph as ``graph.npz`` and, for each number of ranks, as shards; features and labels are random."""
    random = torch.Generator().manual_seed(seed)
    features, hidden, classes = widths
    held = {
        "edge_index": power_law_graph(shape, seed),
        "x": torch.randn(shape.nodes, features, generator=random),
        "y": torch.randint(classes, (shape.nodes,), generator=random),
        "train_mask": torch.rand(shape.nodes, generator=random) < 0.5,
        "hidden": torch.tensor(hidden),
        "classes": torch.tensor(classes),
    }
    arrays: dict[str, Any] = {name: value.numpy() for name, value in held.items()}
    np.savez(folder / "graph.npz", **arrays)
    for count in ranks:
        graphshard.partition(held, count, seed=seed).save(folder / f"shards-{count}")


def measure(
    model: str, systems: Sequence[System], folder: Path, rounds: int, turn: float
) -> dict[str, Measured]:
    """Epochs of every system, taking turns of about ``turn`` seconds.

    Raises:
        GraphshardError: a system fails, or two that compute the same have different losses.
    """
    with ExitStack() as stack:
        running = {s: stack.enter_context(_started(s, model, folder)) for s in systems}
        found = {s: Measured() for s in systems}
        counts = {}
        for system, (ranks, before) in running.items():
            found[system].first, found[system].loss = _first(ranks)
            warm = min(_turn(ranks, 2, found[system], count=False))
            counts[system] = max(2, min(20, math.ceil(turn / warm)))
            found[system].before = sum(before)
        for _ in range(rounds):
            for system, (ranks, _) in running.items():
                _turn(ranks, counts[system], found[system], count=True)
    _check(model, found)
    return {system.label: result for system, result in found.items()}


def _check(model: str, found: dict[System, Measured]) -> None:
    """graphshard and PyG start from the same weights: their first losses must be the same."""
    losses = {s.label: m.loss for s, m in found.items() if s.module != "dgl"}
    if max(losses.values()) - min(losses.values()) > 1e-5 * max(losses.values()):
        raise GraphshardError(f"the systems do not compute the same {model}: first losses {losses}")


def _first(ranks: list[Connection]) -> tuple[float, float]:
    answers = _ask(ranks, 1)
    return max(a["seconds"][0] for a in answers), answers[0]["loss"]


def _turn(ranks: list[Connection], epochs: int, into: Measured, count: bool) -> list[float]:
    answers = _ask(ranks, epochs)
    seconds = [max(each) for each in zip(*(a["seconds"] for a in answers), strict=True)]
    if count:
        into.seconds.extend(seconds)
    into.memory = sum(a["peak"] - a["before"] for a in answers)
    into.peaks = [a["peak"] for a in answers]
    into.cpu = sum(a["cpu"] for a in answers) / epochs
    into.sent = max(a["sent"] for a in answers)
    return seconds


def _ask(ranks: list[Connection], epochs: int) -> list[dict[str, Any]]:
    for rank in ranks:
        rank.send(epochs)
    return [_answer(rank) for rank in ranks]


def _answer(rank: Connection) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = rank.recv()
    except EOFError:
        raise GraphshardError("a benchmarked process died; its output says why") from None
    if "error" in answer:
        raise GraphshardError(f"a benchmarked process failed: {answer['error']}")
    return answer


@contextmanager
def _started(system: System, model: str, folder: Path) -> Iterator[tuple[list[Connection], list[float]]]:
    """The system's processes, ready; told to end afterwards. Their connections, and MiB before training."""
    port, processes, connections = _free_port(), [], []
    for rank in range(system.ranks):
        mine, theirs = Pipe()
        command = [system.python, str(WORKER), system.module, model, str(folder), str(theirs.fileno())]
        command += ["--threads", str(system.threads), "--adjacency", system.adjacency]
        environment = _environment(system, rank, port)
        processes.append(subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()]))
        theirs.close()  # a process that dies then ends the connection
        connections.append(mine)
    try:
        yield connections, [_answer(connection)["before"] for connection in connections]
        for connection in connections:
            connection.send(0)
    finally:
        for connection, process in zip(connections, processes, strict=True):
            connection.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _environment(system: System, rank: int, port: int) -> dict[str, str]:
    # Another Python shall not look for its packages where this one does.
    own = system.python == sys.executable
    mine = {name: value for name, value in os.environ.items() if own or not name.startswith("PYTHON")}
    if system.module == "graphshard":  # as its launcher does
        mine |= allocator_environment(mine)
    return mine | {
        "RANK": str(rank),
        "WORLD_SIZE": str(system.ranks),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(system.threads),
        "DGLBACKEND": "pytorch",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port
