"""A training job: what one rank does, and the two ways to start all of them.

::

    graphshard train --ranks 2       this process: partition --> launch() --> 2 gloo processes --> History
    torchrun ... graphshard train    each rank is here already: the first of a machine partitions, all train
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import graphshard
from graphshard.errors import DataError
from graphshard.graph.data import GraphData
from graphshard.options import Options
from graphshard.ranks.groups import all_gather_object, default_group, group_rank
from graphshard.ranks.launch import launch, signals_end_this_process
from graphshard.ranks.start import meet
from graphshard.shard.shard import Shard
from graphshard.tools import output
from graphshard.tools.targets.load import Target
from graphshard.tools.training.keeping import Keeping
from graphshard.tools.training.loop import History, Recipe, train
from graphshard.tools.training.progress import progress


@dataclass(frozen=True)
class Run:
    """One training run of a job: what makes the model, and a title for the progress bar."""

    target: Target
    title: str


@dataclass(frozen=True)
class Job:
    """What every rank is given; picklable.

    Attributes:
        timeout: seconds that ranks wait for one that hangs; one that dies is noticed at once.
        keeping: where checkpoints go; None keeps none.
    """

    runs: Sequence[Run]
    recipe: Recipe
    options: Options
    dtype: torch.dtype
    seed: int
    show_progress: bool
    timeout: float
    keeping: Keeping | None = None


@dataclass(frozen=True)
class Trained:
    """What rank 0 brings back from one run.

    Attributes:
        target: the run's, sized for the shards.
        history: of the training.
        has_dropout: whether training drew masks, which are graphshard's own and not PyTorch's.
    """

    target: Target
    history: History
    has_dropout: bool


def under_torchrun() -> bool:
    """Whether a launcher started this process as one rank of a job."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def run_local(job: Job, ranks: int, shards: Path | None, load: Callable[[], GraphData]) -> list[Trained]:
    """Start the ranks on this machine, each a process; without ``shards``, partition what ``load`` gives."""
    with signals_end_this_process(), _shards(shards, ranks, job.seed, load) as folder:
        left = (folder.parent,) if shards is None else ()
        arguments = (job, str(folder))
        found = launch(run_rank, ranks, arguments, timeout=job.timeout, run_timeout=math.inf, temporary=left)[
            0
        ]
    assert found is not None
    return found


def run_here(job: Job, shards: Path | None, load: Callable[[], GraphData]) -> list[Trained] | None:
    """Be one rank of the job that torchrun started; a result on rank 0 only.

    NCCL and one GPU for each rank where this machine has as many, else gloo on the CPU.
    """
    local, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available() and torch.cuda.device_count() >= size:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend, limit = "gloo" if device.type == "cpu" else "nccl", timedelta(seconds=job.timeout)
    meet(backend, limit)
    with signals_end_this_process(), ExitStack() as stack:
        folder: Path | None = None
        if local == 0:  # one partition a machine: machines need not share a disk
            folder = stack.enter_context(_shards(shards, dist.get_world_size(), job.seed, load))
        machine = os.environ.get("GROUP_RANK", "0")
        places = all_gather_object((machine, folder and str(folder)), default_group())
        place = next(place for other, place in places if other == machine and place)
        with _removed_on_error(Path(place) if shards is None else None):
            found = run_rank(job, place)
            dist.barrier()  # the files are removed when the slowest has read them
    dist.destroy_process_group()
    return found


@contextmanager
def _removed_on_error(folder: Path | None) -> Iterator[None]:
    """The rank that wrote the shards may be the one that was killed: any other of its machine removes them too."""
    try:
        yield
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder.parent, ignore_errors=True)
        raise


@contextmanager
def _shards(given: Path | None, ranks: int, seed: int, load: Callable[[], GraphData]) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="graphshard-train-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / "shards"
        graphshard.partition(load(), ranks, seed=seed).save(folder)
        yield folder


def run_rank(job: Job, folder: str) -> list[Trained] | None:
    """Train every run of the job on this rank's own shard; the results on rank 0."""
    output.quiet()
    group = default_group()
    shard = graphshard.load_shard(folder).to(job.dtype)
    if torch.cuda.is_available() and dist.get_backend() == "nccl":
        shard = shard.to(torch.device("cuda", torch.cuda.current_device()))
    done = []
    for run in job.runs:
        target = _fitted(run.target, shard, group)
        device = next(iter(shard.node_sets.values())).owned_ids.device
        model = target().to(device=device, dtype=job.dtype)
        distributed = graphshard.distribute(model, seed=job.seed, options=job.options)
        show = job.show_progress and group_rank(group) == 0
        with progress(run.title, job.recipe.epochs, show=show) as on_epoch:
            history = train(distributed, shard, job.recipe, on_epoch, job.keeping)
        done.append(Trained(target, history, _has_dropout(distributed, shard)))
    return done if group_rank(group) == 0 else None


def _fitted(target: Target, shard: Shard, group: str) -> Target:
    """A built-in model sized for the graph that the ranks hold together."""
    if not target.built_in:
        return target
    if "x" not in shard.tensors or "y" not in shard.tensors:
        raise DataError(f"the model {target.spec!r} needs features x and labels y")
    mine = int(shard.y.max()) + 1 if shard.num_owned else 0
    return target.sized(shard.x.size(1), max(all_gather_object(mine, group)))


def _has_dropout(model: graphshard.DistributedModule, shard: Shard) -> bool:
    model.train()
    program = model.stages(shard)[-1].program
    return any(spec.target == "dropout_key" for spec in program.inputs)
