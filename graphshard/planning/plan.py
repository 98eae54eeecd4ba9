"""``plan``: how many ranks a model and a graph want, and what each of them needs."""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphshard.check.verify import Factory, make_model
from graphshard.errors import DataError
from graphshard.graph.roles import GivenRole
from graphshard.options import Options
from graphshard.partitioning.partition import partition
from graphshard.partitioning.report import PartitionReport
from graphshard.planning.alone import Alone, alone, of_counts
from graphshard.planning.link import Link, measure_link
from graphshard.planning.trial import Trial, alone_on_each
from graphshard.preview import argument_specs, describe, diff, symbolic_stages
from graphshard.ranks.launch import launch, usable_cores
from graphshard.shard.shard import Shard
from graphshard.show.traffic import Traffic

MOST_EDGES = 2_000_000
"""A part with more is tried at a stride, twice, and what it takes is read off the line through both."""
_WORTH = 0.95
"""More ranks pay as long as a step takes at most this share of the time that it took before."""


@dataclass(frozen=True)
class Planned:
    """What a step takes on one number of ranks.

    Attributes:
        parts: k.
        halo_rows: halo rows of all parts together.
        sent: bytes that all ranks together send in a step, forward and back; exact.
        busiest: bytes that the rank with most halo rows sends.
        peak: bytes of memory that the rank with most edges needs at its peak, Python and torch included.
        seconds: of a step, forward, backward and Adam, after the first.
        computing: seconds of that in which nothing travels.
        first: seconds of the first step, without what travels.
        fits: whether that is there on every rank.
        tried: which share of the largest part's edges was tried: 1 where nothing is extrapolated.
    """

    parts: int
    halo_rows: int
    sent: int
    busiest: int
    peak: int
    seconds: float
    computing: float
    first: float
    fits: bool
    tried: float


@dataclass(frozen=True)
class Plan:
    """What :func:`plan` found.

    Attributes:
        runs: for each number of ranks, ascending.
        links: the link of each.
        memory: bytes that a rank may use, on each number of ranks.
        here: whether the ranks share this machine.
    """

    runs: tuple[Planned, ...]
    links: tuple[Link, ...]
    memory: tuple[int, ...]
    here: bool

    @property
    def enough(self) -> int | None:
        """The fewest parts that fit into memory; None where none does."""
        return next((run.parts for run in self.runs if run.fits), None)

    @property
    def worthwhile(self) -> int:
        """The number of ranks beyond which a step hardly gets faster: by less than 5 % for the next one tried."""
        best = self.runs[0]
        for run in self.runs[1:]:
            if run.seconds > _WORTH * best.seconds:
                break
            best = run
        return best.parts

    def verdict(self) -> list[str]:
        """What follows from the numbers, in sentences."""
        limit = max(self.memory) / (1 << 30)
        fit = (
            "no number of ranks that was tried fits" if self.enough is None else f"fits from {self.enough} on"
        )
        last = self.runs[-1].parts
        pays = f"beyond {self.worthwhile} ranks a step gets no faster"
        if self.worthwhile == last:
            pays = f"a step still gets faster at {last} ranks, the most that were tried" if last > 1 else ""
        return [f"memory: {fit}, with {limit:.1f} GiB for a rank", *([f"time: {pays}"] if pays else [])]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "here": self.here,
            "enough": self.enough,
            "worthwhile": self.worthwhile,
            "runs": [
                asdict(run) | {"link": asdict(link), "memory": memory}
                for run, link, memory in zip(self.runs, self.links, self.memory, strict=True)
            ],
        }


def plan(
    model: Factory,
    data: Any,
    parts: Sequence[int] = (1, 2, 4, 8),
    *,
    features: int | None = None,
    inputs: Mapping[str, str] | None = None,
    link: Link | None = None,
    memory: int | None = None,
    method: Any = "metis",
    roles: Mapping[str, GivenRole] | None = None,
    options: Options | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> Plan:
    """What a training step will take on several numbers of ranks, without starting that many.

    The graph is cut for each number, and rows and bytes are counted. Then the part with most edges is trained for a
    few steps by itself, in a process of its own, with its halo rows taken from its own rows. A part with more than
    2,000,000 edges is thinned out first. What travels takes its time on the link.

    Args:
        model: the module, or a function without arguments that makes it; a module-level class or function, for it
            goes to other processes.
        data: what :func:`graphshard.partition` takes. Or its report alone, or several of one graph: then ``parts`` are
            theirs, edges join nodes at random, and the bytes of sums that are preaggregated are an upper bound.
        parts: numbers of ranks.
        features, inputs: with reports, what forward's arguments are: as for :func:`graphshard.diff`.
        link: between machines, each with the cores of this one and a rank of its own. None: all ranks run here, they
            share the cores, and the link is measured.
        memory: bytes that a rank may use; by default this machine's, its share of it where ranks share it.
        method, roles, seed: as for :func:`graphshard.partition`.
        options: as for :func:`graphshard.distribute`.
        report: called with a line about what is done next.

    Returns:
        What was found for each number.

    Raises:
        DataError: ``parts`` is no sequence of positive numbers, the graph is a sparse adjacency, or a report is of
            several node types or does not say enough.
        PartitionError, UnsupportedOperation, CaptureError: as of ``partition`` and ``distribute``.

    Example:
        >>> import torch, graphshard
        >>> from torch_geometric.nn import GCNConv
        >>> graph = {"x": torch.rand(60, 8), "edge_index": torch.randint(60, (2, 300))}
        >>> found = graphshard.plan(GCNConv(8, 4), graph, parts=(2,))
        >>> found.runs[0].sent > 0 and found.runs[0].fits
        True
    """
    counts = sorted(set(parts))
    if not counts or counts[0] < 1:
        raise DataError(f"plan() takes numbers of ranks from 1 on, not {list(parts)}")
    chosen = options or Options()
    reports = _reports(data)
    if reports:
        cuts = (_of_report(model, one, features, inputs or {}, chosen) for one in reports)
    else:
        cuts = (_of_graph(model, data, k, method, roles, seed, chosen, report) for k in counts)
    runs, links, limits = [], [], []
    for cut in cuts:
        k = cut.parts
        between = measure_link(k) if link is None else link
        limit = memory or _memory_here() // (k if link is None else 1)
        report(f"{k} part{'s' * (k > 1)}: a few steps of the part with {cut.edges:,} edges")
        runs.append(_planned(model, cut, between, limit, chosen, here=link is None))
        links.append(between)
        limits.append(limit)
    return Plan(tuple(runs), tuple(links), tuple(limits), link is None)


@dataclass(frozen=True)
class _Cut:
    """A graph in k parts.

    Attributes:
        traffic: of a step. share: of all halo rows that are sent and received, the busiest rank's.
        edges: of the part with most of them. alone: writes every q-th node of that part to a file.
    """

    parts: int
    halo_rows: int
    traffic: Traffic
    share: float
    edges: int
    alone: Callable[[int, Path], Alone]


def _of_graph(
    model: Factory,
    data: Any,
    k: int,
    method: Any,
    roles: Mapping[str, GivenRole] | None,
    seed: int,
    options: Options,
    report: Callable[[str], None],
) -> _Cut:
    report(f"{k} part{'s' * (k > 1)}: cutting the graph")
    sharded = partition(data, k, method=method, roles=roles, seed=seed)
    largest = max(sharded, key=lambda shard: (_edges(shard), shard.num_halo))
    rows = [_rows(shard) for shard in sharded]
    return _Cut(
        parts=k,
        halo_rows=sharded.report.halo_nodes,
        traffic=diff(make_model(model), sharded, options=options).traffic,
        share=max(rows) / max(sum(rows), 1),
        edges=_edges(largest),
        alone=functools.partial(alone, largest),
    )


def _reports(data: Any) -> list[PartitionReport]:
    """The reports that data is, by the number of parts; none where it is a graph."""
    if isinstance(data, PartitionReport):
        return [data]
    several = isinstance(data, Sequence) and data and all(isinstance(one, PartitionReport) for one in data)
    return sorted(data, key=lambda one: one.num_parts) if several else []


def _of_report(
    model: Factory,
    report: PartitionReport,
    features: int | None,
    inputs: Mapping[str, str],
    options: Options,
) -> _Cut:
    if report.owned_by_type:
        raise DataError(
            "the report is of several node types and does not say which edges are whose: give plan() the graph"
        )
    made = make_model(model)
    specs = argument_specs(made, features, inputs)
    stages = symbolic_stages(made, features, inputs, options)
    seen = describe(made, stages, halo=report.halo_by_plan, between=False, train=True)
    largest = max(range(report.num_parts), key=lambda part: (report.edges[part], report.halo[part]))
    counts = report.owned[largest], report.halo[largest], report.edges[largest]
    mean = max(1, report.num_nodes // report.num_parts)
    return _Cut(
        parts=report.num_parts,
        halo_rows=report.halo_nodes,
        traffic=seen.traffic,
        share=report.busiest / max(2 * report.halo_nodes, 1),
        edges=report.edges[largest],
        alone=functools.partial(of_counts, specs, *counts, mean),
    )


def _planned(model: Factory, cut: _Cut, link: Link, memory: int, options: Options, *, here: bool) -> Planned:
    k, cores = cut.parts, usable_cores()
    trial, tried = _tried(model, cut, options, min(k, cores) if here else 1)
    crowd = max(1.0, k / cores) if here else 1.0
    sent, exchanges = _bytes(cut.traffic), cut.traffic.exchanges
    halo = sum(cut.traffic.halo_bytes(direction) or 0 for direction in ("forward", "backward"))
    busiest = int(halo * cut.share) + (sent - halo) // k
    messages = sum(e.forward + e.backward for e in exchanges if not e.once)
    travelling = busiest / link.speed + messages * link.latency if k > 1 else 0.0
    return Planned(
        parts=k,
        halo_rows=cut.halo_rows,
        sent=sent,
        busiest=busiest,
        peak=trial.peak,
        seconds=trial.seconds * crowd + travelling,
        computing=trial.seconds * crowd,
        first=trial.first * crowd,
        fits=trial.peak <= memory,
        tried=tried,
    )


def _edges(shard: Shard) -> int:
    return sum(edges.edge_ids.numel() for edges in shard.edge_sets.values())


def _tried(model: Factory, cut: _Cut, options: Options, processes: int) -> tuple[Trial, float]:
    """What steps take on the largest part, and which share of it was tried; as many processes try it at once."""
    with tempfile.TemporaryDirectory(prefix="graphshard-plan-") as folder:
        points = []
        for stride in _strides(cut.edges):
            made = cut.alone(stride, Path(folder) / f"part-{stride}.safetensors")
            found = launch(alone_on_each, processes, (model, made, options), run_timeout=math.inf)
            points.append((made.scale, _slowest(found)))
    return _line(points), max(scale for scale, _ in points)


def _strides(edges: int) -> Iterator[int]:
    """1 for a part that may be tried as it is; else a smaller part and one of twice its size."""
    least = -(-edges // MOST_EDGES)
    yield from (1,) if least <= 1 else (2 * least, least)


def _slowest(trials: Sequence[Trial]) -> Trial:
    return Trial(*(max(getattr(trial, name) for trial in trials) for name in Trial.__dataclass_fields__))


def _line(points: Sequence[tuple[float, Trial]]) -> Trial:
    """What a whole part takes, on the line through what two shares of it took."""
    if len(points) == 1:
        return points[0][1]
    (a, less), (b, more) = points

    def at_one(name: str) -> float:
        low: float
        high: float
        low, high = getattr(less, name), getattr(more, name)
        return max(high, high + (high - low) / (b - a) * (1 - b))

    return Trial(at_one("first"), at_one("seconds"), int(at_one("peak")), int(at_one("sent")))


def _bytes(traffic: Traffic) -> int:
    """Of all ranks together, in a step."""
    directions = ("forward", "backward")
    sizes = [*map(traffic.halo_bytes, directions), *map(traffic.reduce_bytes, directions)]
    if any(size is None for size in sizes):
        raise DataError(
            "how many bytes an exchange has is known only when the model runs: plan() cannot count them"
        )
    return sum(size for size in sizes if size is not None)


def _rows(shard: Shard) -> int:
    """Halo rows that a rank receives, and those that it sends."""
    plans = [plan for nodes in shard.node_sets.values() for plan in nodes.plans.values()]
    return sum(plan.num_halo + plan.send_index.numel() for plan in plans)


def _memory_here() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
