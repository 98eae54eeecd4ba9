"""What test_launch.py runs in other processes; importable there."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from graphshard.ops import exchange as ops


def who_am_i(extra: str) -> tuple[int, int, str, str | None, int]:
    threads = torch.get_num_threads()
    return dist.get_rank(), dist.get_world_size(), extra, os.environ.get("GRAPHSHARD_TEST"), threads


def exchange(world: list[Any], features: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sync, reduce and all-reduce over gloo, forward and backward. ``world`` holds (owned, plan) per rank."""
    group = ops.default_group()
    owned, plan = world[dist.get_rank()]
    x = features[owned].clone().requires_grad_()
    weight = torch.full((features.size(1),), 2.0, dtype=features.dtype, requires_grad=True)
    args = (plan.send_index, list(plan.send_splits), list(plan.recv_splits))
    synced = ops.halo_sync(x, *args, group)
    reduced = ops.halo_reduce(synced * ops.replicated_input(weight, group), *args, "sum", group)
    loss = ops.replicated_output(ops.all_reduce((reduced**2).sum(), "sum", group), group)
    loss.backward()
    assert x.grad is not None
    assert weight.grad is not None
    return {
        "synced": synced.detach(),
        "reduced": reduced.detach(),
        "highest": ops.halo_reduce(synced.detach(), *args, "max", group),
        "loss": loss.detach(),
        "x_grad": x.grad,
        "weight_grad": weight.grad,
    }


def every_dtype(dtypes: list[torch.dtype]) -> list[bool]:
    """Whether rows of each dtype come through a sync unchanged, and a bool/int16 all-reduce is right."""
    group, rank, size = ops.default_group(), dist.get_rank(), dist.get_world_size()
    splits = [int(other != rank) for other in range(size)]
    index = torch.zeros(size - 1, dtype=torch.int64)
    right = []
    for dtype in dtypes:
        row = torch.tensor([[0, 1, 1]]).to(dtype)
        synced = ops.halo_sync(row, index, splits, splits, group)
        right.append(
            synced.dtype == dtype and torch.equal(synced.to(torch.float64)[:, 1], torch.ones(size).double())
        )
    right.append(ops.all_reduce(torch.tensor([rank == 0, False]), "sum", group).tolist() == [True, False])
    right.append(ops.all_reduce(torch.tensor([rank], dtype=torch.int16), "max", group).tolist() == [size - 1])
    return right


def gather_objects() -> list[Any]:
    return ops.all_gather_object({"rank": dist.get_rank()}, ops.default_group())


def raise_on(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ValueError(f"planted on {rank}")
    dist.barrier()


def die_on(rank: int, how: str) -> None:
    if dist.get_rank() == rank:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)
    dist.barrier()


def never_come(rank: int) -> None:
    if dist.get_rank() == rank:
        time.sleep(1000)
    dist.barrier()


def work_for(seconds: float) -> int:
    time.sleep(seconds)
    return dist.get_rank()


def train_typed(folder: str, recipe: Any) -> Any:
    """Train ``typed_models.Sections`` on this rank's shard; the history."""
    from support.typed_models import Sections

    import graphshard
    from graphshard.tools.training.loop import train

    model = Sections().double()
    model.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
    return train(graphshard.distribute(model), graphshard.load_shard(f"{folder}/parts"), recipe)


def start_equal() -> tuple[torch.Tensor, str]:
    """A model seeded by the rank, called; then one rank changes an attribute: the weight, and what is said."""
    from support.equal_start import Net, shards

    import graphshard

    model, shard = Net(dist.get_rank()), shards()[dist.get_rank()]
    module = graphshard.distribute(model, check_every=1)
    module(shard).sum().backward()
    module(shard).sum().backward()
    weight = model.lin.weight.detach().clone()
    model.scale = 1.0 + dist.get_rank()
    try:
        module(shard)
    except graphshard.RuntimeMismatch as error:
        return weight, str(error)
    return weight, "nothing"


def listening_beyond_loopback(pids: list[int]) -> list[str]:
    """The addresses, as Linux writes them, at which these processes or this one listen for others than this machine."""
    tables = [f"/proc/net/{name}" for name in ("tcp", "tcp6") if os.path.exists(f"/proc/net/{name}")]
    rows = [line.split() for table in tables for line in Path(table).read_text().splitlines()[1:]]
    listening = {f"socket:[{row[9]}]": row[1].split(":")[0] for row in rows if row[3] == "0A"}
    found = []
    for pid in (*pids, os.getpid()):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.append(listening.get(os.readlink(descriptor), ""))
    loopback = {"0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F"}
    return sorted(set(found) - loopback - {""})


def wait_for_ever() -> None:
    os.write(1, b"running\n")  # whole, where two ranks write at once
    time.sleep(1000)


def stop_on(rank: int) -> None:
    """One rank is stopped, as by a debugger or a batch system; the others wait."""
    if dist.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.barrier()
