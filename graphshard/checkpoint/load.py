"""``load_checkpoint``: a run goes on, on any number of ranks and any partition."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.api import DistributedModule
from graphshard.checkpoint.content import put_back
from graphshard.checkpoint.folder import Saved, found_in
from graphshard.errors import CheckpointError
from graphshard.ranks.groups import all_gather_object, default_group, group_rank, group_size

__all__ = ["Checkpoint", "load_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded.

    Attributes:
        path: of its folder.
        step, extra: as they were saved.
        ranks: how many ranks saved it.
    """

    path: Path
    step: int
    extra: Any
    ranks: int


def load_checkpoint(
    folder: str | PathLike[str], model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> Checkpoint | None:
    """Let a run go on from the newest whole checkpoint. Collective: every rank calls it, before training.

    The number of ranks and the partition may be others than those of the run that saved: each rank takes the rows of
    its own nodes. The random streams of PyTorch, Python and NumPy go on from where rank 0's stood, on every rank.

    Args:
        folder: of :func:`graphshard.save_checkpoint`; one that does not exist, or is empty, is a run that begins.
        model: made as for the run that saved, and distributed.
        optimizer: made as for that run, over this model's parameters.

    Returns:
        What was loaded; None where there is no checkpoint. One that was not written to its end, or is damaged, is
        passed over with a warning.

    Raises:
        CheckpointError: on every rank: the checkpoint is of another model, optimiser or graph; or none is whole.
    """
    group = model.group_name if isinstance(model, DistributedModule) else default_group()
    here = [(saved.path.name, saved.step) for saved in found_in(Path(folder))]
    candidates = all_gather_object(here, group)[0]
    for name, step in candidates:
        saved = Saved(Path(folder) / name, step)
        manifests, problem = _checked(saved, group)
        if problem:
            if group_rank(group) == 0:
                warnings.warn(f"the checkpoint {name} is passed over: {problem}", UserWarning, stacklevel=2)
            continue
        extra = _taken_up(saved, manifests, model, optimizer, group)
        return Checkpoint(saved.path, saved.step, extra, len(manifests))
    if candidates:
        raise CheckpointError(
            f"{folder} holds no checkpoint that is whole: remove it to begin anew, or load one from elsewhere"
        )
    return None


def _checked(saved: Saved, group: str) -> tuple[list[dict[str, Any]], str]:
    """The manifests of a checkpoint; what is wrong with it. Each rank checks its share of the files."""
    rank, size, problem = group_rank(group), group_size(group), ""
    manifests: list[dict[str, Any]] = []
    try:
        manifests = saved.ranks()
        for number in range(rank, len(manifests), size):
            saved.check(number, manifests[number])
    except CheckpointError as error:
        problem = str(error)
    return manifests, next((said for said in all_gather_object(problem, group) if said), "")


def _taken_up(
    saved: Saved,
    manifests: list[dict[str, Any]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    group: str,
) -> Any:
    extra, problem = None, ""
    try:
        whole = [name for name in manifests[0]["tensors"] if not name.startswith(("rows/", "ids/"))]
        rows = _Rows(saved, manifests, saved.read(0, manifests[0], whole))
        extra = put_back(manifests[0]["document"], rows.read, model, optimizer)
    except CheckpointError as error:
        problem = str(error)
    for said in all_gather_object(problem, group):
        if said:
            raise CheckpointError(f"{saved.path}: {said}")
    return extra


class _Rows:
    """The tensors of a checkpoint; of those that were cut, the rows of given nodes.

    Args:
        saved, manifests: of the checkpoint. whole: the tensors that rank 0 saved for all.
    """

    def __init__(self, saved: Saved, manifests: list[dict[str, Any]], whole: Mapping[str, Tensor]) -> None:
        self._saved, self._manifests, self._whole = saved, manifests, whole
        self._numbers: dict[str, list[Tensor]] = {}

    def read(self, place: Mapping[str, str], nodes: Tensor | None) -> Tensor:
        """The tensor for what stands in its place: of a table the rows of ``nodes``, or of all, in their order.

        Raises:
            CheckpointError: the table has rows of other nodes.
        """
        if "tensor" in place:
            return self._whole[place["tensor"]]
        numbers = self._of(place["ids"])
        total = sum(len(ids) for ids in numbers)
        wanted = torch.arange(total) if nodes is None else nodes.cpu()
        slots = torch.full((total,), -1, dtype=torch.int64)
        if wanted.numel() and int(wanted.max()) >= total:
            raise CheckpointError(f"{place['rows']} has rows of {total} nodes, and this graph has more")
        slots[wanted] = torch.arange(len(wanted))
        found: Tensor | None = None
        for rank, ids in enumerate(numbers):
            mine = slots[ids] >= 0
            part = self._saved.read(rank, self._manifests[rank], [place["rows"]])[place["rows"]]
            if found is None:
                found = part.new_zeros((len(wanted), *part.shape[1:]))
            found[slots[ids[mine]]] = part[mine]
        assert found is not None
        return found

    def _of(self, name: str) -> list[Tensor]:
        """The numbers of the nodes whose rows each rank saved."""
        if name not in self._numbers:
            self._numbers[name] = [
                self._saved.read(rank, manifest, [name])[name]
                for rank, manifest in enumerate(self._manifests)
            ]
        return self._numbers[name]
