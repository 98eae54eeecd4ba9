"""``save_checkpoint``: every rank writes what it holds, beside training."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphshard.api import DistributedModule
from graphshard.checkpoint.content import Content, taken
from graphshard.checkpoint.folder import name_of, prune, write_rank
from graphshard.errors import CheckpointError
from graphshard.ranks.groups import all_gather_object, default_group, group_rank, group_size

__all__ = ["Writing", "save_checkpoint"]


def save_checkpoint(
    folder: str | PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    step: int,
    extra: Mapping[str, Any] | None = None,
    keep: int = 3,
    wait: bool = True,
    after: Writing | None = None,
) -> Writing:
    """Save all that a run needs to go on: weights, moments, node parameters, random streams, seed and step.

    Collective: every rank calls it. Rank 0 writes what all ranks hold alike; of node parameters and their moments each
    rank writes the rows of its own nodes, so no rank ever holds a whole table. A checkpoint counts when every rank has
    finished its part: a run that is killed at any moment leaves the ones before.

    Args:
        folder: on a disk that every rank reaches; made where it does not exist.
        model: of :func:`graphshard.distribute`, or any module that all ranks hold alike.
        optimizer: over its parameters.
        step: how far the run is; of several checkpoints the one of the largest step is loaded.
        extra: more that the run needs: numbers, texts, tensors, and lists, tuples and dicts of these, such as
            ``{"epoch": 7, "schedule": schedule.state_dict()}``. Rank 0's is saved.
        keep: how many checkpoints stay in the folder.
        wait: come back when this rank's part is on disk. Otherwise it is written in a thread, from a copy, while
            training goes on.
        after: what an earlier call without ``wait`` returned: its end is awaited first, and its error raised here.

    Returns:
        The writing; ``Writing.wait()`` comes back when this rank's part is on disk.

    Raises:
        CheckpointError: on every rank, when a state holds what a checkpoint cannot keep, or a rank cannot write.

    Example:
        >>> import tempfile, torch, graphshard
        >>> model = torch.nn.Linear(2, 3)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = graphshard.save_checkpoint(folder, model, optimizer, step=10, extra={"epoch": 1})
        ...     loaded = graphshard.load_checkpoint(folder, model, optimizer)
        >>> loaded.step, loaded.extra
        (10, {'epoch': 1})
    """
    if keep < 1:
        raise CheckpointError(f"keep is how many checkpoints stay, at least 1, not {keep}")
    if step < 0:
        raise CheckpointError(f"step is how far the run is, not {step}")
    group = model.group_name if isinstance(model, DistributedModule) else default_group()
    rank, size = group_rank(group), group_size(group)
    problem, content = "", Content()
    try:
        if after is not None:
            after.wait()
        content = taken(model, optimizer, extra, rank)
    except CheckpointError as error:
        problem = str(error)
    run = _agreed(problem, step, group)
    place = Path(folder) / name_of(step, run)

    def write() -> None:
        write_rank(place, rank, size, content.tensors, content.document if rank == 0 else {})
        if rank == 0:
            prune(Path(folder), keep, place)

    writing = Writing(place, write)
    if wait:
        problem = ""
        try:
            writing.wait()
        except CheckpointError as error:
            problem = str(error)
        _agreed(problem, step, group)
    return writing


class Writing:
    """A checkpoint that is being written by a thread of this rank.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Path, write: Any) -> None:
        self.path, self._write = path, write
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"graphshard writes {path.name}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            self._problem = error

    def wait(self) -> None:
        """Come back when this rank's part is on disk.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._thread.join()
        if self._problem is not None:
            said = " ".join(str(self._problem).split())
            raise CheckpointError(f"cannot write the checkpoint {self.path}: {said}") from self._problem


def _agreed(problem: str, step: int, group: str) -> str:
    """8 hexadecimal digits of this save, the same on every rank.

    Raises:
        CheckpointError: on every rank, where any has a problem, or ranks save another step.
    """
    everyone = all_gather_object((problem, step, uuid.uuid4().hex[:8]), group)
    for rank, (said, _, _) in enumerate(everyone):
        if said:
            raise CheckpointError(said if len(everyone) == 1 else f"rank {rank}: {said}")
    steps = [other for _, other, _ in everyone]
    if len(set(steps)) > 1:
        raise CheckpointError(f"every rank saves the same step, but these save {', '.join(map(str, steps))}")
    found: str = everyone[0][2]
    return found
