"""``graphshard bench``: the benchmarks as subcommands; each writes NAME.json and NAME.svg to a folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphshard.errors import GraphshardError
from graphshard.tools import output

if TYPE_CHECKING:
    from graphshard.tools.bench.compiling import Seconds
    from graphshard.tools.bench.generate import Shape
    from graphshard.tools.bench.kernels import Timing
    from graphshard.tools.bench.memory import Footprint
    from graphshard.tools.bench.small import Step
    from graphshard.tools.bench.systems import Measured

OutOption = Annotated[Path, typer.Option(help="Folder for the JSON and the picture.")]
NodesOption = Annotated[int, typer.Option(help="Nodes of the generated graph.", min=16)]
EdgesOption = Annotated[int, typer.Option(help="Its directed edges.", min=16)]
_NAMES = {"sage": "GraphSAGE, mean", "gcn": "GCN", "gat": "GAT, 4 heads"}
_OF_SYSTEMS = _NAMES | {"mesh": "MeshGraphNet, 3 steps"}

ModelsOption = Annotated[str, typer.Option(help="Of sage, gcn and gat, with commas.")]
SeedOption = Annotated[int, typer.Option(help="Of the graph, the features and METIS.", min=0)]


def systems(
    out: OutOption = Path("bench"),
    nodes: NodesOption = 100_000,
    edges: EdgesOption = 2_000_000,
    models: Annotated[str, typer.Option(help="Of sage, gcn, gat and mesh, with commas.")] = "sage,gcn,gat",
    rounds: Annotated[int, typer.Option(help="Turns of every system.", min=1)] = 5,
    turn: Annotated[float, typer.Option(help="Seconds of a turn, about.", min=0.0)] = 3.0,
    dgl: Annotated[
        str | None, typer.Option(metavar="PYTHON", help="A Python that has DGL; without it, DGL is left out.")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Training epochs: graphshard on ranks and on threads, PyG with edge_index and with CSR, DGL."""
    import tempfile

    from graphshard.tools.bench import systems as bench

    wanted, shape, cores = _models(models, _OF_SYSTEMS), _shape(nodes, edges), _cores()
    found: dict[str, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as scratch:
        folder = Path(scratch)
        bench.write_graph(folder, shape, (128, 128, 32), sorted({1, cores}), seed)
        for model in wanted:
            found[model] = bench.measure(model, bench.systems_of(model, cores, dgl), folder, rounds, turn)
            output.show(f"{model}: seconds of an epoch (median), MiB above the start, MB sent by a rank")
            for label, one in found[model].items():
                output.show(
                    f"  {label:<32}{one.median:8.3f} s{one.memory:9.0f} MiB{one.sent / 1e6:9.3f} MB"
                    f"   first {one.first:.2f} s"
                )
    labels = [label for label in next(iter(found.values())) if all(label in one for one in found.values())]
    document = _head(shape, seed) | {
        "models": {
            model: {label: {**vars(one), "median": one.median} for label, one in results.items()}
            for model, results in found.items()
        }
    }
    seconds = {label: [found[m][label].median for m in wanted] for label in labels}
    _write(out, "systems", document)
    names = [_OF_SYSTEMS[model] for model in wanted]
    _picture(out, "systems", f"Seconds per epoch, {_about(shape)}", names, seconds, "seconds (log scale)")


def kernels(
    out: OutOption = Path("bench"),
    nodes: NodesOption = 200_000,
    edges: EdgesOption = 4_000_000,
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas.")] = "1,2",
    widths: Annotated[str, typer.Option(help="Numbers of a node's row, with commas.")] = "32,128",
    repeats: Annotated[int, typer.Option(help="Timed runs of each form, after one to warm up.", min=1)] = 5,
    seed: SeedOption = 0,
) -> None:
    """Aggregations, forward and backward, against what PyG writes and the memory's bandwidth."""
    from graphshard.tools.bench import kernels as bench
    from graphshard.tools.bench.generate import power_law_graph

    shape = _shape(nodes, edges)
    graph = bench.prepare(power_law_graph(shape, seed), nodes)

    def report(one: Timing) -> None:
        output.show(
            f"{one.case.name + ',':<36} F={one.case.width:<4} threads={one.threads}: {one.kernels * 1e3:8.1f} ms, "
            f"torch fallback {one.fallback * 1e3:8.1f}, PyG {one.literal * 1e3:9.1f} ({one.speedup:.1f}x), "
            f"{one.limit / one.kernels:.0%} of the memory's limit"
        )

    counts = [int(word) for word in threads.split(",")]
    cases = [bench.Case(name, int(width)) for width in widths.split(",") for name in bench.NAMES]
    found = bench.measure(graph, cases, counts, repeats, report)
    entries = [{**vars(one), "case": vars(one.case), "speedup": one.speedup} for one in found]
    _write(out, "kernels", _head(shape, seed) | {"cases": entries})
    most = max(counts)
    drawn = [one for one in found if one.threads == most]
    groups = [f"{one.case.name}, F={one.case.width}" for one in drawn]
    bars = {
        "PyG, as written": [one.literal * 1e3 for one in drawn],
        "torch fallback": [one.fallback * 1e3 for one in drawn],
        "numba kernels": [one.kernels * 1e3 for one in drawn],
        "memory bandwidth": [one.limit * 1e3 for one in drawn],
    }
    title = f"Forward + backward, {_about(shape)}, {most} thread{'s' * (most > 1)}"
    _picture(out, "kernels", title, groups, bars, "ms (log scale)")


def memory(
    out: OutOption = Path("bench"),
    nodes: NodesOption = 490_000,
    edges: EdgesOption = 24_700_000,
    ranks: Annotated[int, typer.Option(help="Processes of graphshard.", min=1)] = 2,
    steps: Annotated[int, typer.Option(help="Pairs of counted steps, after three to warm up.", min=1)] = 1,
    models: Annotated[
        str, typer.Option(help="Of sage3-dropout, sage3 and gat3-dropout, with commas.")
    ] = "sage3-dropout,sage3,gat3-dropout",
    seed: SeedOption = 0,
) -> None:
    """Peak memory of a rank, and of PyG with the whole graph: GraphSAGE and GAT, 3 layers."""
    import tempfile

    from graphshard.tools.bench import memory as bench
    from graphshard.tools.bench.systems import write_graph

    shape, wanted = _shape(nodes, edges), _models(models, bench.MODELS)

    def report(model: str, label: str, one: Footprint) -> None:
        output.show(
            f"{bench.MODELS[model]:<26} {label:<36}{one.peak:8.2f} GiB a process{one.above:8.2f} above the start"
            f"{one.median:9.3f} s a step, {one.cpu:.3f} s of cores   {one.allocator}"
        )

    with tempfile.TemporaryDirectory(prefix="graphshard-bench-") as scratch:
        write_graph(Path(scratch), shape, bench.WIDTHS, [ranks], seed)
        found = bench.footprints(Path(scratch), ranks, _cores(), steps, report, wanted)
    entries = {m: {label: vars(one) for label, one in each.items()} for m, each in found.items()}
    _write(out, "memory", _head(shape, seed) | {"models": entries})
    labels = [label for label in next(iter(found.values())) if all(label in each for each in found.values())]
    bars = {label: [found[m][label].peak for m in found] for label in labels}
    title = f"Peak memory of a process, 3 layers of 256, {_about(shape)}"
    _picture(out, "memory", title, [bench.MODELS[m] for m in wanted], bars, "GiB (log scale)")


def peak(
    out: Annotated[
        Path | None, typer.Option(help="A directory for peak.json; without it, none is written.")
    ] = None,
    nodes: NodesOption = 40_000,
    edges: EdgesOption = 800_000,
    against: Annotated[
        Path | None, typer.Option(help="The peak.json of before: over 5 % more is an error.")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Peak memory of a rank on a small graph, and whether it grew."""
    from graphshard.tools.bench import peak as bench

    shape = _shape(nodes, edges)
    before = json.loads(against.read_text()) if against is not None else None
    if before is not None and before["graph"] != _head(shape, seed)["graph"]:
        raise GraphshardError(f"{against} is of another graph: {before['graph']}")
    found = {}
    for model, mib in bench.peaks(shape, seed):
        output.show(f"{model:<14}{mib:7.0f} MiB a rank above the start")
        found[model] = round(mib, 1)
    if out is not None:
        _write(out, "peak", _head(shape, seed) | {"models": found})
    if before is not None:
        bench.check(found, before["models"])


def scaling(
    out: OutOption = Path("bench"),
    nodes: NodesOption = 500_000,
    edges: EdgesOption = 10_000_000,
    largest: Annotated[int, typer.Option(help="Most parts; the others are halves.", min=2)] = 256,
    each: Annotated[int, typer.Option(help="Edges of each part in weak scaling.", min=16)] = 100_000,
    seed: SeedOption = 0,
) -> None:
    """Halo rows, bytes, balance and a predicted epoch for 2 parts and more, by simulation."""
    from graphshard.tools.bench import scaling as bench
    from graphshard.tools.bench.charts import lines
    from graphshard.tools.bench.generate import power_law_graph

    shape = _shape(nodes, edges)
    graph = power_law_graph(shape, seed)
    sample = _shape(max(16, nodes * 1_000_000 // edges), 1_000_000) if edges > 1_000_000 else shape
    speeds = bench.measure_speeds(power_law_graph(sample, seed), sample.nodes)
    output.show(
        f"{speeds.edge * 1e9:.1f} ns an edge, {speeds.row * 1e9:.0f} ns a row, "
        f"{speeds.loopback / 1e9:.2f} GB/s over loopback"
    )
    counts = [k for k in (2**i for i in range(1, 20)) if k <= largest]
    strong, weak = [], []
    for parts in counts:
        strong.append(bench.cut(graph, nodes, parts, seed))
        output.show(_cut_line("strong", bench.table(strong[-1:], speeds)[0]))
    for parts in counts:
        grown = _shape(max(16, nodes * each // edges) * parts, each * parts)
        weak.append(bench.cut(power_law_graph(grown, seed), grown.nodes, parts, seed))
        output.show(_cut_line("weak", bench.table(weak[-1:], speeds)[0]))
    tables = {"strong": bench.table(strong, speeds), "weak": bench.table(weak, speeds)}
    _write(out, "scaling", _head(shape, seed) | {"speeds": vars(speeds)} | tables)
    panels = []
    for name, rows in tables.items():
        curves = {link: [(r["parts"], r[f"predicted, {link}"]) for r in rows] for link in bench.LINKS}
        panels.append((f"{name} scaling, predicted", "seconds per epoch", curves))
    sent = {name: [(r["parts"], r["sent_bytes"] / 1e6) for r in rows] for name, rows in tables.items()}
    panels.append(("sent by the busiest rank", "MB per epoch", sent))
    if _can_draw():
        lines(out / "scaling.svg", panels)


def small(
    out: OutOption = Path("bench"),
    models: ModelsOption = "gcn,sage,gat",
    cora: Annotated[
        str | None, typer.Option(metavar="DATA", help="Cora as well: planetoid:Cora?root=PATH.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    steps: Annotated[int, typer.Option(help="Counted steps, after ten to warm up.", min=2)] = 150,
) -> None:
    """Microseconds of a training step of small graphs: the karate club, and Cora where its files are."""
    from graphshard.tools.bench import small as bench

    wanted = _models(models)

    def report(graph: str, model: str, one: Step) -> None:
        output.show(bench.row(graph, model, one))

    output.show(bench.HEADER)
    found = bench.measure(["karate", *([cora] if cora else [])], wanted, ranks, steps, report)
    _write(out, "small", {"machine": _machine()} | bench.document(found, ranks, steps))
    bars = {graph: [one.median / 1e3 for one in each.values()] for graph, each in found.items()}
    _picture(out, "small", f"A training step on {ranks} ranks", wanted, bars, "ms (log scale)")


def plan(
    out: OutOption = Path("bench"),
    nodes: NodesOption = 100_000,
    edges: EdgesOption = 2_000_000,
    models: Annotated[
        str, typer.Option(help="Of sage, gcn, gat and mesh, with commas.")
    ] = "sage,gcn,gat,mesh",
    parts: Annotated[str, typer.Option(help="Numbers of ranks, as for graphshard plan.")] = "1,2,4",
    hidden: Annotated[int, typer.Option(help="Hidden numbers of a node.", min=1)] = 64,
    seed: SeedOption = 0,
) -> None:
    """What graphshard plan says, beside what as many ranks take."""
    from graphshard.planning.words import numbers_of
    from graphshard.tools.bench import planned as bench

    shape, wanted = _shape(nodes, edges), _models(models, bench.MODELS)
    document = _head(shape, seed) | {"hidden": hidden, "models": {name: [] for name in wanted}}
    for model, one in bench.compared(shape, wanted, numbers_of(parts), hidden, seed):
        document["models"][model].append(vars(one))
        output.show(
            f"{bench.MODELS[model]:<22} {one.parts} ranks: sent {one.planned_sent:,} B planned, {one.sent:,} measured; "
            f"peak {one.planned_peak / (1 << 20):.0f} MiB, {one.peak / (1 << 20):.0f} "
            f"({one.planned_peak / one.peak - 1:+.0%}); step {one.planned_seconds:.3g} s, {one.seconds:.3g} "
            f"({one.planned_seconds / one.seconds - 1:+.0%})"
        )
    _write(out, "plan", document)


def border(
    data: Annotated[str, typer.Argument(metavar="DATA", help="The graph, as for train.")] = "karate",
    out: OutOption = Path("bench"),
    models: ModelsOption = "gcn,sage,gat",
    ranks: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    steps: Annotated[int, typer.Option(help="Counted steps of each way.", min=2)] = 100,
    rows: Annotated[int, typer.Option(help="Of the gather that is timed alone.", min=1)] = 1_000_000,
    columns: Annotated[int, typer.Option(help="Of the same.", min=1)] = 47,
) -> None:
    """Microseconds that it costs to compute a loss with rows of the whole graph, and seconds of a gather."""
    from graphshard.tools.bench import border as bench

    costs: dict[str, Any] = {}

    def report(model: str, cost: Any) -> None:
        costs[model] = cost
        output.show(bench.row(model, cost))

    output.show(bench.HEADER)
    bench.measure(data, _models(models), ranks, steps, report)
    gathered = bench.gather(rows, columns, ranks)
    output.show(
        f"gather of {rows:,} x {columns}: {gathered.forward:.3f} s forward, {gathered.backward:.3f} s backward, "
        f"{gathered.peak:,.0f} MiB a rank"
    )
    _write(out, "border", {"machine": _machine()} | bench.document(costs, gathered, ranks, steps))
    bars = {way: [getattr(cost, way) / 1e3 for cost in costs.values()] for way in bench.WAYS}
    _picture(out, "border", f"A step of {data} on {ranks} ranks", list(costs), bars, "ms (log scale)")


def exchange(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A graph of yours too, as for train.")
    ] = None,
    out: OutOption = Path("bench"),
    nodes: NodesOption = 100_000,
    edges: EdgesOption = 2_000_000,
    parts: Annotated[str, typer.Option(help="Numbers of parts to count rows of, with commas.")] = "2,8",
    ranks: Annotated[int, typer.Option(help="Processes that train.", min=1)] = 2,
    models: Annotated[
        str, typer.Option(help="Of sage, gcn and sage3, with commas: trained on the first graph.")
    ] = "sage3,gcn",
    turns: Annotated[int, typer.Option(help="Counted steps of each way.", min=1)] = 7,
    seed: SeedOption = 0,
) -> None:
    """Rows that ranks send for a sum, raw and preaggregated: counted on several graphs, and timed on one."""
    from graphshard.tools.bench import exchange as bench
    from graphshard.tools.bench.generate import mesh_graph, power_law_graph, radius_graph
    from graphshard.tools.data.sources import load_data

    wanted = _models(models, ("sage", "gcn", "sage3"))
    graphs = {"power law": (power_law_graph(_shape(nodes, edges), seed), nodes)}
    others = {"mesh": mesh_graph(2 * nodes, seed), "radius": radius_graph(max(16, nodes // 2), seed, 20)}
    graphs |= {name: (edge_index, len(points)) for name, (edge_index, points) in others.items()}
    if data is not None:
        tensors = load_data(data).tensors
        graphs[data] = (tensors["edge_index"], tensors["x"].size(0))
    counted: dict[str, Any] = {}
    for name, (edge_index, count) in graphs.items():
        counted[name] = {"nodes": count, "edges": edge_index.size(1), "rows": []}
        for k in (int(word) for word in parts.split(",")):
            one = bench.rows(edge_index, count, k, seed)
            counted[name]["rows"].append(vars(one) | {"saved": one.saved})
            output.show(
                f"{name:<12} k={k:<4}{one.raw:>9,} rows raw,{one.sent:>9,} preaggregated ({-one.saved:+.1%}), "
                f"{one.sums:,} of them sums of rows, found in {one.seconds:.2f} s"
            )

    def report(model: str, way: str, one: bench.Step) -> None:
        output.show(
            f"{model:<8}{way:<16}{one.median:8.3f} s a step (least {one.least:.3f}), first {one.first:.2f} s, "
            f"{one.sent / 1e6:8.1f} MB a step, peak {one.peak:7.0f} MiB a rank"
        )

    edge_index, count = graphs["power law"]
    found = bench.steps(edge_index, count, ranks, wanted, turns, seed, report)
    entries = {model: {way: vars(one) for way, one in each.items()} for model, each in found.items()}
    head = _head(_shape(nodes, edges), seed) | {"ranks": ranks}
    _write(out, "exchange", head | {"graphs": counted, "steps": entries})
    bars = {
        kind: [row[kind] for each in counted.values() for row in each["rows"]] for kind in ("raw", "sent")
    }
    groups = [f"{name}, k={row['parts']}" for name, each in counted.items() for row in each["rows"]]
    _picture(
        out, "exchange", "Rows that all ranks send for a sum, one direction", groups, bars, "rows (log scale)"
    )


def compile(
    out: OutOption = Path("bench"),
    models: ModelsOption = "gcn,sage,gat",
    layers: Annotated[str, typer.Option(help="Numbers of layers, with commas.")] = "3,16",
    repeats: Annotated[int, typer.Option(help="Times that each model is compiled.", min=1)] = 3,
) -> None:
    """Seconds to compile: capture, each pass and the pipeline's own work, in this process."""
    from graphshard.tools.bench import compiling as bench

    def report(label: str, one: Seconds) -> None:
        output.show(bench.row(label, one))

    wanted, counts = _models(models), [int(word) for word in layers.split(",")]
    output.show(bench.HEADER)
    found = bench.measure(wanted, counts, repeats, report)
    output.show("", *bench.table(found))
    _write(out, "compile", {"machine": _machine()} | bench.document(found, repeats))
    bars = {
        "capture": [one.capture for one in found.values()],
        "passes": [one.passes for one in found.values()],
    }
    groups = [f"{label} layers" for label in found]
    _picture(out, "compile", "Seconds to compile a model", groups, bars, "seconds (log scale)")


def partition(
    out: OutOption = Path("bench"),
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An npz with edge_index, and pos if nodes have positions."),
    ] = None,
    graphs: Annotated[str, typer.Option(help='Of power law, mesh and radius, with commas; none: "".')] = (
        "power law,mesh,radius"
    ),
    methods: Annotated[str, typer.Option(help="With commas.")] = "metis,metis-volume,multilevel,rcb",
    parts: Annotated[str, typer.Option(help="Numbers of parts, with commas.")] = "2,8,64",
    nodes: NodesOption = 100_000,
    edges: Annotated[int, typer.Option(help="Directed edges of the power law graph.", min=16)] = 2_000_000,
    seed: SeedOption = 0,
) -> None:
    """Partition methods: halo rows, busiest rank, balance, seconds and memory, each in a process of its own."""
    from graphshard.partitioning.methods import METHODS
    from graphshard.tools.bench import partitioning as bench

    wanted = _some_of(methods, METHODS, "--methods")
    kinds = _some_of(graphs, bench.GRAPHS, "--graphs") if graphs else []
    shape, numbers = _shape(nodes, edges), [int(word) for word in parts.split(",")]
    output.show(bench.HEADER)
    found = bench.measure(kinds, data, wanted, numbers, shape, seed, lambda one: output.show(bench.row(one)))
    _write(out, "partition", _head(shape, seed) | {"cuts": [vars(one) for one in found]})
    most = max(numbers)
    names = list(dict.fromkeys(one.graph for one in found))
    halo = {(one.graph, one.method): float(one.halo) for one in found if one.parts == most}
    everywhere = [method for method in wanted if all((name, method) in halo for name in names)]
    bars = {method: [halo[name, method] for name in names] for method in everywhere}
    _picture(out, "partition", f"Halo rows of {most} parts", names, bars, "rows (log scale)")


def _cut_line(kind: str, row: dict[str, float]) -> str:
    return (
        f"{kind:<7} k={row['parts']:<4} {row['edges']:>11,} edges: {row['halo']:>9,} halo rows, "
        f"{row['sent_bytes'] / 1e6:7.2f} MB by the busiest rank, balance {row['balance']:.2f}, "
        f"epoch {row['predicted, 10 Gbit/s']:.3f} s at 10 Gbit/s (METIS took {row['seconds']:.0f} s)"
    )


# ---- what they share ---------------------------------------------------------------------------------------


def _models(text: str, known: Iterable[str] = _NAMES) -> list[str]:
    return _some_of(text, known, "--models")


def _some_of(text: str, known: Iterable[str], option: str) -> list[str]:
    wanted = text.split(",")
    if not set(wanted) <= set(known):
        raise typer.BadParameter(f"{text!r}: write some of {', '.join(known)}", param_hint=option)
    return wanted


def _shape(nodes: int, edges: int) -> Shape:
    from graphshard.tools.bench.generate import Shape

    return Shape(nodes, edges)


def _about(shape: Shape) -> str:
    return f"{shape.nodes:,} nodes, {shape.edges:,} edges"


def _cores() -> int:
    from graphshard.ranks.launch import usable_cores

    return max(2, usable_cores())


def _machine() -> dict[str, Any]:
    import torch

    return {"cores": _cores(), "python": platform.python_version(), "torch": torch.__version__}


def _head(shape: Shape, seed: int) -> dict[str, Any]:
    return {
        "graph": vars(shape) | {"seed": seed},
        "machine": _machine(),
        "huge pages": os.environ.get("THP_MEM_ALLOC_ENABLE") == "1",
    }


def _write(out: Path, name: str, document: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f".{name}.json"
    draft.write_text(json.dumps(document, indent=1) + "\n")
    draft.replace(out / f"{name}.json")
    output.show(f"wrote {out / name}.json")


def _can_draw() -> bool:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        output.show("no picture: install graphshard[bench], which has matplotlib")
        return False
    return True


def _picture(
    out: Path, name: str, title: str, groups: list[str], values: dict[str, list[float]], unit: str
) -> None:
    from graphshard.tools.bench.charts import grouped_bars

    if _can_draw():
        grouped_bars(out / f"{name}.svg", title, groups, values, unit)
