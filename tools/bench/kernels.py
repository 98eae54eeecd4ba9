"""Aggregations, forward and backward: graphshard's kernels, its fallback, what PyG writes, and the memory's limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from graphshard.errors import GraphshardError
from graphshard.kernels.interface import using
from graphshard.ops.aggregation import edge_extreme, edge_softmax, edge_structure, weighted_sum

HEADS = 4


@dataclass(frozen=True)
class Case:
    """One aggregation at one width.

    Attributes:
        name: "weighted sum", "weighted sum, gradient of weights", "max" or "attention".
        width: numbers of a node's row, all heads together.
    """

    name: str
    width: int


NAMES = ("weighted sum", "weighted sum, gradient of weights", "max", "attention")


@dataclass(frozen=True)
class Timing:
    """Median seconds of one case.

    Attributes:
        kernels, fallback, literal: of the numba kernels, of torch's sparse ops, of what PyG writes.
        limit: of reading as many bytes as are gathered, in order. Rows that a cache holds can be read faster.
    """

    case: Case
    threads: int
    kernels: float
    fallback: float
    literal: float
    limit: float

    @property
    def speedup(self) -> float:
        return self.literal / self.kernels


@dataclass(frozen=True)
class Graph:
    """The edges as a user has them, and sorted by destination as a program sorts them.

    Attributes:
        source, destination: int64 ``[E]``.
        order: int64 ``[E]``, the edges by destination.
        structure: of the edges in that order.
        nodes: N.
    """

    source: Tensor
    destination: Tensor
    order: Tensor
    structure: list[Tensor]
    nodes: int


def prepare(edge_index: Tensor, nodes: int) -> Graph:
    """Both forms of the edges of ``edge_index`` int64 ``[2, E]``."""
    source, destination = edge_index
    order = destination.argsort(stable=True)
    structure = edge_structure(destination[order], source[order], nodes, nodes)
    return Graph(source, destination, order, structure, nodes)


Step = Callable[[Tensor, Tensor], Tensor]


def lowered(case: Case, graph: Graph) -> Step:
    """What a lowered program runs, of x ``[N, width]`` and what belongs to edges: ``[E]``, or scores ``[E, heads]``."""
    if case.name == "max":
        return lambda x, _: edge_extreme(x, graph.structure, "amax")
    if case.name == "attention":
        return lambda x, scores: weighted_sum(
            x.view(graph.nodes, HEADS, -1), edge_softmax(scores, graph.structure, 1e-16), graph.structure
        )
    return lambda x, weight: weighted_sum(x, weight, graph.structure)


def literal(case: Case, graph: Graph) -> Step:
    """The same as PyG's message passing writes it, with ``edge_index``."""
    from torch_geometric.utils import scatter, softmax

    def total(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = scatter(
            x.index_select(0, graph.source) * weight.view(-1, 1), graph.destination, 0, graph.nodes, "sum"
        )
        return out

    def largest(x: Tensor, _: Tensor) -> Tensor:
        out: Tensor = scatter(x.index_select(0, graph.source), graph.destination, 0, graph.nodes, "max")
        return out

    def attention(x: Tensor, scores: Tensor) -> Tensor:
        share = softmax(scores, graph.destination, num_nodes=graph.nodes)
        message = x.view(graph.nodes, HEADS, -1).index_select(0, graph.source) * share.unsqueeze(-1)
        out: Tensor = scatter(message, graph.destination, 0, graph.nodes, "sum")
        return out

    forms: dict[str, Step] = {"max": largest, "attention": attention}
    return forms.get(case.name, total)


def measure(
    graph: Graph,
    cases: Sequence[Case],
    threads: Sequence[int],
    repeats: int,
    report: Callable[[Timing], None],
) -> list[Timing]:
    """Every case with every number of threads, the three forms in turns."""
    kept, found = torch.get_num_threads(), []
    try:
        for count in threads:
            torch.set_num_threads(count)
            for case in cases:
                found.append(_measure(graph, case, count, repeats))
                report(found[-1])
    finally:
        torch.set_num_threads(kept)
    return found


def _measure(graph: Graph, case: Case, threads: int, repeats: int) -> Timing:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(graph.nodes, case.width, generator=random).requires_grad_()
    edges = (HEADS,) if case.name == "attention" else ()
    weight = torch.rand(graph.source.numel(), *edges, generator=random)
    learned = case.name in ("attention", "weighted sum, gradient of weights")
    by_row = weight[graph.order].requires_grad_(learned)
    weight.requires_grad_(learned)
    fast, slow = lowered(case, graph), literal(case, graph)
    forms: dict[str, tuple[Step, Tensor, str]] = {
        "kernels": (fast, by_row, "numba"),
        "fallback": (fast, by_row, "torch"),
        "literal": (slow, weight, "torch"),
    }
    out = fast(x, by_row).detach()
    if not torch.allclose(out, slow(x, weight).view_as(out), rtol=1e-3, atol=1e-3):
        raise GraphshardError(f"graphshard's {case.name} is not what PyG computes")
    grad = torch.randn(out.shape, generator=random)
    del out
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):  # the first compiles, and is not counted
        for name, (step, values, chosen) in forms.items():
            with using(chosen):
                seconds = _once(step, x, values, grad)
            if turn:
                times[name].append(seconds)
    passes = 3 if learned else 2  # the gradient of weights reads the rows once more
    limit = passes * graph.source.numel() * case.width * x.element_size() / _bandwidth()
    middle = {name: median(each) for name, each in times.items()}
    return Timing(case, threads, middle["kernels"], middle["fallback"], middle["literal"], limit)


def _once(step: Step, x: Tensor, weight: Tensor, grad: Tensor) -> float:
    x.grad = weight.grad = None
    start = time.perf_counter()
    out = step(x, weight)
    out.backward(grad.view_as(out))  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


_STREAM = 1 << 26
"""Numbers that are read in order to measure the bandwidth: far more than caches hold."""


def _bandwidth() -> float:
    """Bytes a second that this many threads read from memory in order."""
    table, best = torch.ones(_STREAM), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        table.sum()
        best = min(best, time.perf_counter() - start)
    return table.numel() * table.element_size() / best
