"""Steps of training, run and measured: by ranks that exchange rows, or by each on a part that needs no other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graphshard.api import DistributedModule, distribute
from graphshard.check.verify import Factory, make_model
from graphshard.options import Options
from graphshard.planning.alone import Alone
from graphshard.private import pytree
from graphshard.ranks.groups import count_bytes
from graphshard.ranks.memory import peak_memory
from graphshard.shard.files import load_shard
from graphshard.shard.placed import plain
from graphshard.shard.shard import Shard

_SECONDS = 3.0
_FEWEST, _MOST = 3, 30


@dataclass(frozen=True)
class Trial:
    """What steps took on one rank.

    Attributes:
        first: seconds of the first step, which captures the model and sorts the edges.
        seconds: of a later one, the median.
        peak: bytes of memory of the process at its peak, Python and torch included.
        sent: bytes that it sent in a later step.
    """

    first: float
    seconds: float
    peak: int
    sent: int


def run_steps(model: nn.Module, shard: Shard, options: Options, group: dist.ProcessGroup | None) -> Trial:
    """Forward, backward and Adam, some seconds long and at least three times after the first.

    What the outputs are worth is the mean of their squares on this rank: a loss costs little beside a model.
    """
    parallel = distribute(model, group=group, options=options)
    parallel.train()
    optimizer = torch.optim.Adam(parallel.parameters())
    first, _ = _step(parallel, shard, optimizer)
    second, _ = _step(parallel, shard, optimizer)
    count = torch.tensor(min(max(_SECONDS / max(second, 1e-6), _FEWEST), _MOST)).long()
    if group is None and dist.is_initialized():
        dist.broadcast(count, 0)  # every rank makes as many
    seconds, sent = zip(*(_step(parallel, shard, optimizer) for _ in range(int(count))), strict=True)
    return Trial(first, median(seconds), peak_memory(), sent[-1])


def _step(model: DistributedModule, shard: Shard, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    """Seconds, and bytes sent."""
    start = time.perf_counter()
    with count_bytes() as counter:
        optimizer.zero_grad()
        loss = _worth(model(shard))
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return time.perf_counter() - start, counter.total


def _worth(outputs: Any) -> Tensor | None:
    flowing = [
        value
        for leaf in pytree.tree_leaves(outputs)
        if isinstance(leaf, Tensor) and (value := plain(leaf)).is_floating_point() and value.requires_grad
    ]
    terms = [value.square().sum() / max(value.numel(), 1) for value in flowing]
    return torch.stack(terms).sum() if terms else None


def alone_on_each(model: Factory, part: Alone, options: Options) -> Trial:
    """What every process of a launch does that tries a part alone, at the same time as the others."""
    own = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    made, shard = make_model(model), part.load()
    dist.barrier()
    return run_steps(made, shard, options, own)


def together(model: Factory, folder: str, options: Options) -> Trial:
    """What every rank of a launch does with its own shard: the real thing."""
    return run_steps(make_model(model), load_shard(folder), options, None)
