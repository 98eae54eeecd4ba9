"""Whether a shard that was read can be what it says: sizes, dtypes, and numbers within the rows that they number.

Kernels do not check what edges point to, and a wrong count of rows would be computed with in silence. Each tensor is
looked at once: a minimum and a maximum where it numbers rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.halo import HaloPlan
from graphshard.placement import MESSAGES
from graphshard.roles import Member, Role
from graphshard.set_shards import EdgeShard, NodeShard
from graphshard.shard import Shard

MOST_ROWS = 2**62
"""Of any set: sums of counts stay within int64."""


def check_shard(shard: Shard) -> None:
    """Make sure that the parts of a shard fit each other.

    Raises:
        ShardError: names the part that does not, and how.
    """
    for name, nodes in shard.node_sets.items():
        _check_nodes(_called("node set", name), nodes, shard.rank, shard.world_size)
    for name, edges in shard.edge_sets.items():
        _check_edges(_called("edge set", name), edges, shard)
    for name, value in shard.tensors.items():
        _check_tensor(name, value, shard.members[name], shard)


def _called(kind: str, name: str) -> str:
    return f"{kind} {name!r}" if name else f"the {kind}"


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ShardError(problem)


def _count(value: Any, what: str) -> int:
    _require(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_ROWS,
        f"{what} is {value!r}",
    )
    return int(value)


def _check_nodes(what: str, nodes: NodeShard, rank: int, world_size: int) -> None:
    total = _count(nodes.num_nodes, f"the number of nodes of {what}")
    _require(MESSAGES in nodes.plans, f"{what} has no plan for messages")
    owned = nodes.owned_ids
    for name, plan in nodes.plans.items():
        called = f"{what}'s {name or 'message'} plan"
        ids = nodes.node_ids[name]
        _check_plan(called, plan, rank, world_size)
        _require(
            ids.dim() == 1 and ids.dtype == torch.int64,
            f"the ids of {called} are {_kind(ids)}, not int64 [rows]",
        )
        _require(
            plan.num_owned >= 0 and ids.numel() == plan.num_owned + plan.num_halo,
            f"{called} has {ids.numel()} ids",
        )
        _check_range(f"the ids of {called}", ids, total)
        _require(torch.equal(ids[: plan.num_owned], owned), f"{called} owns other nodes than the others do")
        _require(bool((ids.sort().values.diff() > 0).all()), f"{called} holds a node twice")
    _require(bool((owned.diff() > 0).all()), f"the owned ids of {what} do not ascend")


def _check_plan(what: str, plan: HaloPlan, rank: int, world_size: int) -> None:
    for name, splits in (("send", plan.send_splits), ("recv", plan.recv_splits)):
        _require(
            len(splits) == world_size, f"{what} has {name}_splits of {len(splits)} ranks, not {world_size}"
        )
        _require(min(splits) >= 0, f"{what} has a negative number in its {name}_splits")
        # A single rank sends nothing, not even to itself.
        _require(splits[rank] == 0, f"{what} sends rows to its own rank")
    _require(
        plan.send_index.dim() == 1 and plan.send_index.dtype == torch.int64,
        f"the send_index of {what} is {_kind(plan.send_index)}, not int64 [rows]",
    )
    _require(
        plan.send_index.numel() == sum(plan.send_splits),
        f"{what} lists {plan.send_index.numel()} rows to send but counts {sum(plan.send_splits)}",
    )
    _require(plan.num_halo == sum(plan.recv_splits), f"{what} receives other rows than its halo has")
    _check_range(f"the send_index of {what}", plan.send_index, plan.num_owned)


def _check_edges(what: str, edges: EdgeShard, shard: Shard) -> None:
    total = _count(edges.num_edges, f"the number of edges of {what}")
    ends = (edges.edge_set.source, edges.edge_set.destination)
    _require(
        set(ends) <= set(shard.node_sets),
        f"{what} joins {' and '.join(map(repr, ends))}, which are no node sets",
    )
    source = shard.node_sets[edges.edge_set.source]
    _require(edges.edge_set.plan in source.plans, f"{what} is read by a plan that its source does not have")
    ids = edges.edge_ids
    _require(
        ids.dim() == 1 and ids.dtype == torch.int64, f"the ids of {what} are {_kind(ids)}, not int64 [edges]"
    )
    _check_range(f"the ids of {what}", ids, total)
    _require(bool((ids.diff() > 0).all()), f"the ids of {what} do not ascend")


def _check_tensor(name: str, value: Tensor, member: Member, shard: Shard) -> None:
    if member.role is Role.REPLICATED:
        return
    nodes = member.role is Role.NODE
    known: Mapping[str, Any] = shard.node_sets if nodes else shard.edge_sets
    _require(member.of in known, f"tensor {name!r} belongs to {member.of!r}, which the shard does not have")
    if nodes:
        _check_rows(name, value, shard.node_sets[member.of].num_owned)
        return
    edges = shard.edge_sets[member.of]
    count = edges.edge_ids.numel()
    if member.role is Role.EDGE:
        _check_rows(name, value, count)
        return
    adjacency = member.role is Role.ADJACENCY  # has entries of its own
    index, wanted = (value.indices(), value.values().size(0)) if adjacency else (value, count)
    _require(
        index.dtype == torch.int64 and list(index.shape) == [2, wanted],
        f"tensor {name!r} is {_kind(index)} of shape {list(index.shape)}, not int64 [2, {wanted}]",
    )
    rows = index.flip(0) if adjacency else index  # a row of an adjacency is a destination
    plan = shard.node_sets[edges.edge_set.source].plans[edges.edge_set.plan]
    _check_range(f"a source in {name!r}", rows[0], plan.num_owned + plan.num_halo)
    _check_range(f"a destination in {name!r}", rows[1], shard.node_sets[edges.edge_set.destination].num_owned)


def _check_rows(name: str, value: Tensor, count: int) -> None:
    rows = value.size(0) if value.dim() else None
    _require(rows == count, f"tensor {name!r} has {rows} rows, not {count}")


def _check_range(what: str, numbers: Tensor, end: int) -> None:
    if numbers.numel():
        low, high = (int(v) for v in numbers.aminmax())
        _require(low >= 0 and high < end, f"{what} is {low if low < 0 else high}, outside of 0..{end - 1}")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def file_in(folder: Path, name: Any) -> Path:
    """A file of a manifest, which lies in the manifest's own folder.

    Raises:
        ShardError: it would lie elsewhere.
    """
    if not isinstance(name, str) or PurePath(name).name != name or name in ("", ".", ".."):
        raise ShardError(f"the manifest of {folder} names the file {name!r}, which is not in that directory")
    file = folder / name
    if file.is_symlink() and file.resolve().parent != folder.resolve():
        raise ShardError(f"{file} is a link to a file outside of its directory: copy the file itself")
    return file
