"""What ``graphshard.private.torch_distributed`` relies on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.private import torch_distributed
from graphshard.private.torch_distributed import PythonGroup

pytestmark = pytest.mark.versions


class Alone(PythonGroup):
    """A group of one rank that says what it was asked for."""

    def __init__(self) -> None:
        super().__init__(0, 1, "graphshard-test-alone", "alone")
        self.asked: list[Any] = []

    def exchange(
        self, output: Tensor, input: Tensor, output_splits: Sequence[int], input_splits: Sequence[int]
    ) -> None:
        self.asked.append(("exchange", list(output_splits), list(input_splits)))
        output.copy_(input)

    def reduce_all(self, tensor: Tensor, op: Any) -> None:
        self.asked.append(("reduce_all", op == dist.ReduceOp.MAX))

    def gather_all(self, name: str, tensor: Tensor) -> list[Tensor]:
        self.asked.append(name)
        return [tensor]

    def send_first(self, tensor: Tensor, root: int) -> None:
        self.asked.append(("send_first", root))

    def meet(self) -> None:
        self.asked.append("meet")


@pytest.fixture
def alone() -> Iterator[Alone]:
    group = Alone()
    with torch_distributed.registered({group.group_name: group}):
        yield group


def test_a_group_is_found_by_its_name(alone: Alone) -> None:
    """``_register_process_group``, ``_resolve_process_group`` and ``_unregister_process_group`` are one table."""
    assert torch_distributed.process_group(alone.group_name) is alone
    assert (alone.rank(), alone.size()) == (0, 1)
    with pytest.raises(LookupError):
        torch_distributed.process_group("graphshard-test-nobody")


def test_a_group_is_gone_after_the_block() -> None:
    group = Alone()
    with torch_distributed.registered({group.group_name: group}):
        pass
    with pytest.raises(LookupError):
        torch_distributed.process_group(group.group_name)


def test_a_group_says_its_backend(tmp_path: Path) -> None:
    """``ProcessGroup.name()`` has the backend's name in it: of Python's what it says itself, of gloo ``gloo``."""
    assert torch_distributed.backend_of(Alone()) == "alone"
    assert not torch_distributed.sends_device_tensors(Alone())
    if dist.is_initialized():
        pytest.skip("a process group is initialised already")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        world = dist.group.WORLD
        assert world is not None
        assert "gloo" in torch_distributed.backend_of(world)
        assert not torch_distributed.sends_device_tensors(world)
        assert torch_distributed.process_group(world.group_name).size() == 1
    finally:
        dist.destroy_process_group()


def test_nccl_says_that_it_is_nccl() -> None:
    """What ``ProcessGroup.name()`` says of it has ``nccl`` in it: ``dist.Backend`` writes names in lower case."""
    assert dist.Backend.NCCL == "nccl"


def test_torch_distributed_calls_a_python_group_by_known_methods(alone: Alone) -> None:
    """all_to_all_single, all_reduce, all_gather, all_gather_into_tensor, broadcast and barrier come through."""
    x, y = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    work = dist.all_to_all_single(y, x, [3], [3], group=alone, async_op=True)
    work.wait()
    dist.all_to_all_single(y, x, group=alone)
    dist.all_reduce(x, op=dist.ReduceOp.MAX, group=alone)
    dist.all_reduce(x, group=alone)
    gathered = [torch.zeros(3, dtype=torch.int64)]
    dist.all_gather(gathered, x, group=alone)
    dist.barrier(group=alone)
    options = dist.BroadcastOptions()
    options.rootRank = 0
    alone.broadcast([x], options).wait()
    assert alone.asked == [
        ("exchange", [3], [3]),
        ("exchange", [3], [3]),
        ("reduce_all", True),
        ("reduce_all", False),
        "all_gather",
        "meet",
        ("send_first", 0),
    ]
    assert y.tolist() == gathered[0].tolist() == [0, 1, 2]


@pytest.mark.filterwarnings(
    "ignore:.*all_gather_into_tensor:FutureWarning", "ignore:.*all_gather_into_tensor"
)
def test_gathers_into_one_tensor_come_through(alone: Alone) -> None:
    x, y = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    dist.all_gather_into_tensor(y, x, group=alone)
    assert alone.asked == ["all_gather_into_tensor"]
    assert y.tolist() == [0, 1, 2]
