"""``graphshard train``: train a model on several ranks, here or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphshard.tools import output
from graphshard.tools.cli.options import (
    DropoutOption,
    Dtype,
    HeadsOption,
    HiddenOption,
    JsonOption,
    LayersOption,
    PlainOption,
    SeedOption,
    TargetArgument,
    WithOption,
    WithoutOption,
    chosen_passes,
)

if TYPE_CHECKING:
    from rich.table import Table

    from graphshard.graph.data import GraphData
    from graphshard.tools.training.comparison import Comparison
    from graphshard.tools.training.job import Job, Trained
    from graphshard.tools.training.loop import History


def train(
    target: TargetArgument = "gcn",
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="The graph: karate, digits, sbm:nodes=1000,degree=8, planetoid:Cora?root=PATH, FILE.pt, FILE.npz.",
            show_default="karate",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Number of processes on this machine.", min=1, show_default="2, or as --shards"),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Steps, each over the whole graph.", min=1)] = 100,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.", min=0.0)] = 0.01,
    weight_decay: Annotated[float, typer.Option(help="Of Adam.", min=0.0)] = 5e-4,
    dtype: Annotated[Dtype, typer.Option(help="Floating dtype of model and data.")] = Dtype.float32,
    shards: Annotated[
        Path | None, typer.Option(help="Directory that `graphshard partition` wrote: no partitioning now.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train on one machine too; fail if float64 losses differ.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Directory for checkpoints of the run, on a disk that every rank reaches."),
    ] = None,
    every: Annotated[int, typer.Option(help="Epochs between two checkpoints.", min=1)] = 10,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, on any number of ranks.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="File for the trained weights (state_dict, for torch.load).")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds that ranks wait for one that hangs.", min=1.0)
    ] = 300.0,
    hidden: HiddenOption = 16,
    layers: LayersOption = 2,
    dropout: DropoutOption = 0.5,
    heads: HeadsOption = 4,
    seed: SeedOption = 0,
    plain: PlainOption = False,
    with_: WithOption = None,
    without: WithoutOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model on several ranks: here, or as one rank of torchrun's."""
    _check_together(data, shards, compare, checkpoint, resume)
    options = chosen_passes(plain, with_, without)
    import functools

    import torch

    from graphshard.tools.data.sources import load_data
    from graphshard.tools.targets.load import load_target
    from graphshard.tools.training import job as jobs
    from graphshard.tools.training.keeping import Keeping
    from graphshard.tools.training.loop import Recipe

    source = data or "karate"
    load = functools.cache(functools.partial(load_data, source))
    model = load_target(target, hidden=hidden, layers=layers, dropout=dropout, heads=heads, seed=seed)
    count = _ranks(ranks, shards)
    runs = [jobs.Run(model, "training")]
    if compare and model.built_in and dropout:
        runs.append(jobs.Run(model.without_dropout(), "no dropout"))
    recipe = Recipe(epochs, lr, weight_decay)
    keeping = Keeping.checked(checkpoint, every, resume)
    job = jobs.Job(runs, recipe, options, getattr(torch, dtype.value), seed, not json, timeout, keeping)
    here = jobs.under_torchrun()
    results = jobs.run_here(job, shards, load) if here else jobs.run_local(job, count, shards, load)
    if results is None:
        return
    found = _compare(job, results, load(), shards) if compare else []
    if save is not None:
        _save(results[0].history, save)
    place = source if shards is None else str(shards)
    head = {"target": target, "data": place, "ranks": count, "dtype": dtype.value, "seed": seed}
    _show(head, results[0], found, json)
    if not all(one.passed for one in found):
        raise typer.Exit(1)


def _check_together(
    data: str | None, shards: Path | None, compare: bool, checkpoint: Path | None, resume: bool
) -> None:
    """Refuse options that do not go together."""
    if compare and shards is not None and data is None:
        raise typer.BadParameter("to compare, give the whole graph too, as DATA", param_hint="--compare")
    if shards is not None and data is not None and not compare:
        raise typer.BadParameter("the shards are the graph: leave DATA out", param_hint="--shards")
    if resume and checkpoint is None:
        raise typer.BadParameter("say where the checkpoints are: --checkpoint DIR", param_hint="--resume")
    if compare and checkpoint is not None:
        raise typer.BadParameter("a comparison trains from the first epoch on", param_hint="--checkpoint")


def _show(head: dict[str, Any], result: Trained, found: list[Comparison], json: bool) -> None:
    """What came of it, for people or as JSON."""
    history, ranks = result.history, head["ranks"]
    if json:
        output.show_json(head | _as_dict(history, found))
        return
    done = f"{len(history.epochs)} epochs on {ranks} rank{'s' * (ranks > 1)}, {head['dtype']}"
    output.show(f"{head['target']} on {head['data']}: {done}", *_summary(history))
    if found:
        output.show("", _table(found), *_verdict(found, result.has_dropout))


def _save(history: History, file: Path) -> None:
    """Write the trained weights, whole or not at all."""
    import uuid

    import torch

    from graphshard.errors import DataError

    scratch = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        torch.save(dict(history.final), scratch)
        scratch.replace(file)
    except (OSError, RuntimeError) as error:
        scratch.unlink(missing_ok=True)
        raise DataError(f"cannot write the weights to {file}: {error}") from error


def _ranks(given: int | None, shards: Path | None) -> int:
    """How many ranks there are: what torchrun started, what was asked for, or one for each shard."""
    import os

    from graphshard.shard.manifest import read_manifest
    from graphshard.tools.training.job import under_torchrun

    if under_torchrun():
        size = int(os.environ["WORLD_SIZE"])
        if given not in (None, size):
            raise typer.BadParameter(f"torchrun started {size} rank(s)", param_hint="--ranks")
        return size
    if given is None and shards is not None:
        return int(read_manifest(shards)["world_size"])
    return given or 2


def _compare(job: Job, results: list[Trained], graph: GraphData, shards: Path | None) -> list[Comparison]:
    """Every comparison that means something: PyTorch's only without dropout."""
    from graphshard.errors import DataError
    from graphshard.shard.manifest import read_manifest
    from graphshard.tools.training import comparison

    if shards is not None:
        manifest = read_manifest(shards)
        sizes = (manifest["num_nodes"], manifest["num_edges"])
        if sizes != (graph.num_nodes, graph.num_edges):
            raise DataError(f"{shards} holds another graph ({sizes[0]} nodes, {sizes[1]} edges) than DATA")
    found = []
    for result in results:
        found.append(comparison.one_rank(job, result, graph))
        if not result.has_dropout:
            found.append(comparison.pytorch(job, result, graph))
    return found


def _summary(history: History) -> list[str]:
    last = history.epochs[-1]
    shares = "  ".join(f"{split} {share:.4f}" for split, share in last.accuracy.items())
    halo, reduced = output.bytes_text(last.halo_bytes), output.bytes_text(last.reduce_bytes)
    return [
        f"loss      {last.loss:.6f}",
        *([f"accuracy  {shares}"] if shares else []),
        f"sent      {halo} in halo exchanges, {reduced} in all-reduces an epoch, all ranks together",
        f"time      {history.seconds * 1000:.2f} ms an epoch (median; evaluation not counted)",
    ]


def _table(found: list[Comparison]) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    made.add_column("compared with")
    for title in ("loss curve", "weights", "relative", "our accuracy", "its accuracy", ""):
        made.add_column(title, justify="right")
    for one in found:
        accuracies = [f"{share:.4f}" for share in one.accuracy or ()] or ["", ""]
        name = one.reference + (", dropout on" if one.dropout else ", no dropout")
        verdict = "" if one.tolerance is None else "[green]ok[/]" if one.passed else "[red]FAIL[/]"
        numbers = (f"{value:.1e}" for value in (one.loss, one.weights, one.weights_relative))
        made.add_row(name, *numbers, *accuracies, verdict)
    return made


def _verdict(found: list[Comparison], has_dropout: bool) -> list[str]:
    lines = []
    if has_dropout and not any(one.reference == "PyTorch" for one in found):
        lines.append("not compared with PyTorch, which draws dropout masks in the order of rows")
    tolerance = found[0].tolerance
    if tolerance is None:
        lines.append("float32 is only reported: use --dtype float64 for a check")
    elif all(one.passed for one in found):
        lines.append(f"PASS: the loss curves agree to {tolerance:.0e}")
    else:
        lines.append(f"FAIL: a loss curve differs by more than {tolerance:.0e}")
    return lines


def _as_dict(history: History, found: list[Comparison]) -> dict[str, Any]:
    from dataclasses import asdict

    epochs = [asdict(epoch) for epoch in history.epochs]
    document: dict[str, Any] = {"final": epochs[-1], "seconds_per_epoch": history.seconds, "epochs": epochs}
    if found:
        document["passed"] = all(one.passed for one in found)
        document["comparisons"] = [one.as_dict() for one in found]
    return document
