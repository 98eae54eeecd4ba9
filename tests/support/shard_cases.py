"""Shards to test with: every dtype and role at once; and their comparison."""

from __future__ import annotations

import torch
from support.local import local

from graphshard.partitioning.partition import ShardedGraph, partition
from graphshard.shard.shard import Shard


def sharded(parts: int = 2, nodes: int = 9, seed: int = 0) -> ShardedGraph:
    random = torch.Generator().manual_seed(seed)
    edges = torch.randint(nodes, (2, 20), generator=random)
    return partition(
        {
            "x": torch.randn(nodes, 3, generator=random),
            "edge_index": edges,
            "wide": torch.randn(nodes, generator=random, dtype=torch.float64),
            "half": torch.randn(20, generator=random).bfloat16(),
            "mask": torch.rand(nodes, generator=random) > 0.5,
            "kind": torch.randint(5, (20,), generator=random).to(torch.int8),
            "table": torch.arange(4.0),
            "adj": torch.sparse_coo_tensor(
                edges.flip(0), torch.ones(20), (nodes, nodes), check_invariants=True
            ),
        },
        parts,
        num_nodes=nodes,
    )


def assert_same(one: Shard, two: Shard) -> None:
    assert (one.rank, one.world_size, one.num_nodes, one.num_edges) == (
        two.rank,
        two.world_size,
        two.num_nodes,
        two.num_edges,
    )
    assert list(one.members.items()) == list(two.members.items())
    assert (one.schema, one.sizes, one.paths) == (two.schema, two.sizes, two.paths)
    assert (one.positional, one.halo.send_splits, one.halo.recv_splits) == (
        two.positional,
        two.halo.send_splits,
        two.halo.recv_splits,
    )
    pairs = [
        (one.node_ids, two.node_ids),
        (one.edge_ids, two.edge_ids),
        (one.halo.send_index, two.halo.send_index),
    ]
    for a, b in pairs + [(local(value), local(two.tensors[name])) for name, value in one.tensors.items()]:
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.is_sparse:
            assert b.is_coalesced()
            assert torch.equal(a.indices(), b.indices())
            assert torch.equal(a.values(), b.values())
        else:
            assert torch.equal(a, b)
