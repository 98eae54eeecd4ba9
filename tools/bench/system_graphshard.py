"""The same stock PyG modules through graphshard: one process a rank, each with its shard."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

import graphshard
from graphshard.ranks.groups import count_bytes
from graphshard.ranks.launch import PRELOADED
from graphshard.tools.bench import pyg_models


def build(
    name: str, folder: str, _adjacency: str
) -> tuple[Callable[[], float], Callable[[], int], Callable[[], None]]:
    """A step of this rank, and the bytes that its last step sent."""
    ranks = int(os.environ["WORLD_SIZE"])
    for module in PRELOADED:  # this and the next, as graphshard's own launcher does for every rank
        importlib.import_module(module)
    if ranks > 1:
        dist.init_process_group("gloo")
    shard = graphshard.load_shard(Path(folder) / f"shards-{ranks}")
    torch.manual_seed(0)
    hidden, classes = int(shard.hidden), int(shard.classes)
    model = graphshard.distribute(pyg_models.make(name, shard.x.size(1), hidden, classes))
    optimiser = torch.optim.Adam(model.parameters())
    sent = 0

    def step() -> float:
        nonlocal sent
        with count_bytes() as counter:
            optimiser.zero_grad()
            losses = F.cross_entropy(
                model(shard)[shard.train_mask], shard.y[shard.train_mask], reduction="none"
            )
            loss = graphshard.mean(losses)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        sent = counter.total
        return loss.item()

    def close() -> None:
        if ranks > 1:
            dist.barrier()
            dist.destroy_process_group()

    return step, lambda: sent, close
