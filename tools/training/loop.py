"""The training loop of the command line: full-batch node classification, distributed or on one machine.

::

    train(distribute(model), shard, recipe)      every rank, one shard each  --+
                                                                               +--> History: curve, weights
    train_eagerly(model, whole, recipe)          plain PyTorch, whole graph  --+

Both take the same steps with the same optimiser, so their curves can be compared value by value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphshard.api import DistributedModule
from graphshard.border.totals import mean
from graphshard.errors import DataError
from graphshard.execute.bind import from_shard
from graphshard.ranks.groups import ByteCounter, all_gather_object, count_bytes
from graphshard.shard.placed import plain
from graphshard.shard.shard import Shard
from graphshard.tools.training.epoch import Epoch, Listener
from graphshard.tools.training.keeping import Keeper, Keeping

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam over all nodes of the training mask, once each epoch."""

    epochs: int = 100
    lr: float = 0.01
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class History:
    """A training run: every epoch, and the model's state (on the CPU) before the first and after the last."""

    epochs: Sequence[Epoch]
    initial: Mapping[str, Tensor]
    final: Mapping[str, Tensor]

    @property
    def losses(self) -> list[float]:
        return [epoch.loss for epoch in self.epochs]

    @property
    def seconds(self) -> float:
        """Seconds of a typical epoch: the median, since the first one compiles."""
        return median(epoch.seconds for epoch in self.epochs)


def train(
    model: DistributedModule,
    shard: Shard,
    recipe: Recipe,
    on_epoch: Listener | None = None,
    keeping: Keeping | None = None,
) -> History:
    """Train on this rank's shard; every rank of the model's group calls it.

    The loss is the cross-entropy of ``shard.y`` on ``shard.train_mask`` over all ranks, or what forward
    returns if that is a scalar.

    Args:
        model: with the same parameters on every rank.
        shard: with ``y`` and the masks that there are, unless forward returns the loss.
        recipe: how to train.
        on_epoch: called after each epoch, on every rank.
        keeping: where checkpoints go; None keeps none.

    Raises:
        DataError: there is nothing to train on.
        CheckpointError: a checkpoint cannot be written, or is of another run.
        GraphshardError: the model is refused.
    """
    task = _Task(lambda: model(shard), *labelled(shard), lambda losses: mean(losses, model._group))
    return _run(model, task, recipe, on_epoch, model.group_name, keeping)


def train_eagerly(
    model: nn.Module, whole: Shard, recipe: Recipe, on_epoch: Listener | None = None
) -> History:
    """Train an untouched module on the shard of a single rank, with nothing but PyTorch."""
    args, kwargs = from_shard(model, whole)
    task = _Task(lambda: model(*args, **kwargs), *labelled(whole), torch.mean)
    return _run(model, task, recipe, on_epoch, "")


def labelled(shard: Shard) -> tuple[str, Mapping[str, Tensor]]:
    """The one node type that has labels ``y``, and its tensors by attribute; ``""`` in a homogeneous graph."""
    if shard.schema.homogeneous:
        return "", shard.tensors
    types = [str(p[1]) for p in shard.paths.values() if p[0] in ("y", "y_dict") and p[1] in shard.node_sets]
    return (types[0], shard[types[0]].tensors) if len(types) == 1 else ("", {})


@dataclass(frozen=True)
class _Task:
    """What is trained: a forward, the node type with labels and its tensors, what the mean over all nodes is."""

    forward: Callable[[], Any]
    node_type: str
    tensors: Mapping[str, Tensor]
    mean: Callable[[Tensor], Tensor]

    def _output(self) -> Any:
        """What forward returns; of a dict, the part of the labelled node type."""
        out = self.forward()
        return out.get(self.node_type) if isinstance(out, dict) else out

    def loss(self) -> Tensor:
        out = self._output()
        if not isinstance(out, Tensor) or not out.is_floating_point():
            raise DataError("forward must return logits [N, classes], or the loss as a scalar")
        if out.dim() == 0:
            return out
        y, mask = self._labels(out), plain(self.tensors.get("train_mask"))
        own = plain(out)
        if mask is not None:
            own, y = own[mask], y[mask]
        return self.mean(F.cross_entropy(own, y, reduction="none"))

    def hits(self) -> list[tuple[int, int]] | None:
        """(right, all) among this rank's nodes of each split; None where there are no logits."""
        out: Tensor = self._output()
        if out.dim() == 0:
            return None
        right = plain(out).argmax(dim=-1) == self._labels(out)
        masks = [plain(self.tensors.get(f"{split}_mask", torch.zeros_like(right))) for split in SPLITS]
        return [(int(right[mask].sum()), int(mask.sum())) for mask in masks]

    def _labels(self, out: Tensor) -> Tensor:
        """Of this rank's nodes: losses and hits are computed from its own rows, whose functions need no capture."""
        if "y" not in self.tensors:
            raise DataError(
                "the data has no labels y to train on, or several node types have: return the loss from forward"
            )
        y = self.tensors["y"]
        if out.dim() != 2 or out.size(0) != y.size(0):
            raise DataError(
                f"forward must return logits, one row for each node, or the loss as a scalar, not "
                f"{list(out.shape)}"
            )
        own: Tensor = plain(y)
        return own


def _run(
    model: nn.Module,
    task: _Task,
    recipe: Recipe,
    on_epoch: Listener | None,
    group: str,
    keeping: Keeping | None = None,
) -> History:
    if not any(p.requires_grad for p in model.parameters()):
        raise DataError("the model has no parameters to train")
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    initial = state_of(model)
    keeper = Keeper(keeping, model, optimiser, recipe.epochs)
    epochs = keeper.resumed()
    if on_epoch is not None:
        for epoch in epochs:
            on_epoch(epoch)
    for number in range(len(epochs) + 1, recipe.epochs + 1):
        model.train()
        start = time.perf_counter()
        with count_bytes() as sent:
            optimiser.zero_grad()
            loss = task.loss()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        value = loss.item()
        seconds = time.perf_counter() - start
        model.eval()
        with torch.no_grad():
            hits = task.hits()
        epochs.append(_together(number, value, hits, sent, seconds, group))
        if on_epoch is not None:
            on_epoch(epochs[-1])
        keeper.keep(epochs)
    return History(epochs, initial, state_of(model))


def _together(
    number: int,
    loss: float,
    hits: list[tuple[int, int]] | None,
    sent: ByteCounter,
    seconds: float,
    group: str,
) -> Epoch:
    """The ranks' parts of one epoch as one."""
    if math.isnan(loss):
        raise DataError(
            f"the loss is NaN in epoch {number}: the training mask may be empty, or the learning rate too high"
        )
    everyone = all_gather_object((hits, sent.halo_bytes, sent.reduce_bytes, seconds), group)
    accuracy = {}
    for i, split in enumerate(SPLITS if hits is not None else ()):
        right, total = (sum(rank[0][i][k] for rank in everyone) for k in (0, 1))
        if total:
            accuracy[split] = right / total
    halo, reduced = (sum(rank[k] for rank in everyone) for k in (1, 2))
    return Epoch(number, loss, accuracy, halo, reduced, max(rank[3] for rank in everyone))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
