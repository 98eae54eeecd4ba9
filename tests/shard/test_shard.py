"""A shard's tensors and marks; scatter and gather."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from support.repository import ROOT
from support.shard_cases import assert_same, sharded

from graphshard.errors import ShardError
from graphshard.graph.roles import Role
from graphshard.partitioning.partition import partition
from graphshard.shard.shard import shard_tensor_of


def test_every_tensor_names_its_shard() -> None:
    for shard in sharded():
        for name, value in shard.tensors.items():
            mark = shard_tensor_of(value)
            assert mark is not None
            assert (mark.shard, mark.name, mark.role) == (shard, name, shard.roles[name])
    assert shard_tensor_of(shard.x + 1) is None
    assert shard_tensor_of(torch.ones(1)) is None


def test_missing_name_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match="no tensor 'z'; it has x, edge_index, wide"):
        _ = sharded()[0].z
    assert not hasattr(sharded()[0], "__array__")


def test_to_moves_everything_and_marks_anew() -> None:
    shard = sharded()[0]
    shard.x.requires_grad_(True)
    double = shard.to(torch.float64)
    assert (double.x.dtype, double.adj.dtype, double.half.dtype) == (torch.float64,) * 3
    assert (double.mask.dtype, double.kind.dtype, double.edge_index.dtype) == (
        torch.bool,
        torch.int8,
        torch.int64,
    )
    assert double.x.requires_grad
    assert double.x.is_leaf
    assert not double.table.requires_grad
    for moved in (double, shard.to("meta"), shard.to("cpu")):
        assert all(shard_tensor_of(v).shard is moved for v in moved.tensors.values())  # type: ignore[union-attr]
    assert shard_tensor_of(shard.x).shard is shard  # type: ignore[union-attr]
    assert shard.to("meta").halo.send_index.device.type == "meta"
    with pytest.raises(ShardError, match=r"cannot become torch\.int64"):
        shard.to(torch.int64)


def test_copies_and_pickles_keep_the_marks_straight() -> None:
    shard = sharded()[0]
    for other in (copy.deepcopy(shard), pickle.loads(pickle.dumps(shard))):
        assert_same(shard, other)
        assert shard_tensor_of(other.x).shard is other  # type: ignore[union-attr]
    with pytest.raises(TypeError, match=r"rank 0's part .* shard.gather\(tensor\) is all of it"):
        pickle.dumps(shard.x)
    assert shard_tensor_of(pickle.loads(pickle.dumps(shard.x.local()))) is None


@given(st.integers(1, 12), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_scatter_then_gather_is_the_identity_in_one_rank(nodes: int, seed: int) -> None:
    shard = partition({"edge_index": torch.randint(nodes, (2, 5))}, 1, num_nodes=nodes)[0]
    rows = torch.randn(nodes, 2)
    assert torch.equal(shard.gather(shard.scatter(rows, Role.NODE)), rows)
    assert torch.equal(shard.scatter(torch.arange(5), "edge"), torch.arange(5))


def test_scatter_and_gather_refuse_other_rows() -> None:
    (shard,) = sharded(1)
    with pytest.raises(ShardError, match=r"one row for each of 9 nodes, not \[8\]"):
        shard.scatter(torch.zeros(8), Role.NODE)
    with pytest.raises(ShardError, match="only node and edge rows"):
        shard.scatter(torch.zeros(9), Role.REPLICATED)
    with pytest.raises(ShardError, match="each of the 9 owned nodes of rank 0, not 8 rows"):
        shard.gather(torch.zeros(8))
    with pytest.raises(ShardError, match="needs the 2 ranks of these shards, this job has 1"):
        sharded(2)[0].gather(torch.zeros(sharded(2)[0].num_owned))


def _gather_on_rank(rank: int, world: int, store: str) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world)
    shard = sharded(world)[rank]
    whole = torch.arange(18, dtype=torch.float64).reshape(9, 2)
    assert torch.equal(shard.gather(shard.scatter(whole, Role.NODE)), whole)
    mask = torch.arange(9) % 2 == 0
    assert torch.equal(shard.gather(shard.scatter(mask, Role.NODE), group=dist.group.WORLD), mask)
    with pytest.raises(ShardError, match="owned nodes of rank 1"):  # rank 0 must not be left waiting
        shard.gather(torch.zeros(shard.num_owned + rank))
    with pytest.raises(ShardError, match="another dtype or row shape on rank 1"):
        shard.gather(torch.zeros(shard.num_owned, 1 + rank))
    with pytest.raises(ShardError, match="some of them twice"):
        sharded(world)[0].gather(torch.zeros(sharded(world)[0].num_owned))
    dist.destroy_process_group()


@pytest.mark.processes
def test_gather_over_gloo(tmp_path: Path) -> None:
    # This file again as a program: forking a process whose torch threads run can hang.
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), "2", str(tmp_path / "store")],
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"},
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=60)[1].decode() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)


if __name__ == "__main__":
    _gather_on_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
