"""What a shard's two files hold: what all ranks share, in the manifest, and flat tensors, in the rank's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.graph.paths import from_json, to_json
from graphshard.graph.roles import Member, Role
from graphshard.graph.schema import EdgeSet
from graphshard.shard.checks import check_content
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.shard import Shard


def described(shard: Shard) -> dict[str, Any]:
    """What is the same on every rank, as JSON: the sets, and what each tensor is."""
    return {
        "num_nodes": shard.num_nodes,
        "num_edges": shard.num_edges,
        "partition_id": shard.partition_id,
        "node_sets": [
            {"name": name, "num_nodes": nodes.num_nodes, "plans": list(nodes.plans)}
            for name, nodes in shard.node_sets.items()
        ],
        "edge_sets": [
            {
                "name": name,
                "source": edges.edge_set.source,
                "destination": edges.edge_set.destination,
                "plan": edges.edge_set.plan,
                "num_edges": edges.num_edges,
            }
            for name, edges in shard.edge_sets.items()
        ],
        "tensors": [
            {
                "name": name,
                "role": member.role.value,
                "of": member.of,
                "path": to_json(shard.paths.get(name, ())),
                "dtype": str(shard.tensors[name].dtype).removeprefix("torch."),
                "row_shape": _row_shape(shard.parts()[name], member.role),
            }
            for name, member in shard.members.items()
        ],
    }


def named(shard: Shard) -> dict[str, Tensor]:
    """Everything that differs between ranks, under the names that it has in the rank's file.

    Raises:
        ShardError: a tensor has a dtype that the file format cannot hold.
    """
    found = {"partition_id": _identity(shard.partition_id)}
    for i, nodes in enumerate(shard.node_sets.values()):
        for j, (name, plan) in enumerate(nodes.plans.items()):
            key = f"nodes.{i}.{j}"
            found[f"{key}.ids"] = nodes.node_ids[name]
            found[f"{key}.send_index"] = plan.send_index
            found[f"{key}.send_splits"] = torch.tensor(plan.send_splits, dtype=torch.int64)
            found[f"{key}.recv_splits"] = torch.tensor(plan.recv_splits, dtype=torch.int64)
    for i, edges in enumerate(shard.edge_sets.values()):
        found[edge_ids_key(i)] = edges.edge_ids
    for name, value in shard.parts().items():
        if value.is_complex():
            raise ShardError(
                f"{name!r} is complex, which the file format cannot hold: split it with view_as_real"
            )
        if shard.members[name].role is Role.ADJACENCY:
            found[f"indices.{name}"], found[f"values.{name}"] = value.indices(), value.values()
        else:
            found[tensor_key(name)] = value
    return found


def edge_ids_key(number: int) -> str:
    """The name of the positions of the edges of a set, by the set's number."""
    return f"edges.{number}.ids"


def tensor_key(name: str) -> str:
    """The name of a tensor of the data that is no adjacency."""
    return f"tensor.{name}"


def _row_shape(value: Tensor, role: Role) -> list[int]:
    """What is the same on every rank: the shape of a row; of a replicated tensor, the shape."""
    if role is Role.REPLICATED:
        return list(value.shape)
    return [] if role.is_index else list((value.values() if role is Role.ADJACENCY else value).shape[1:])


def unpacked(found: dict[str, Tensor], manifest: dict[str, Any], rank: int) -> Shard:
    """The shard that :func:`named` names; ValueError where the file is not what the manifest says."""
    if "partition_id" not in found or not torch.equal(
        found["partition_id"], _identity(manifest["partition_id"])
    ):
        raise ShardError(
            f"the file of rank {rank} is of another partition than its manifest: copy the whole directory anew, "
            "or run `graphshard partition` again"
        )
    check_content(found, manifest, rank)
    node_sets = {entry["name"]: _node_shard(found, i, entry) for i, entry in enumerate(manifest["node_sets"])}
    edge_sets = {
        e["name"]: EdgeShard(
            EdgeSet(e["name"], e["source"], e["destination"], e["plan"]),
            e["num_edges"],
            found[edge_ids_key(i)],
        )
        for i, e in enumerate(manifest["edge_sets"])
    }
    members = {e["name"]: Member(Role(e["role"]), e["of"]) for e in manifest["tensors"]}
    tensors = {}
    for name, member in members.items():
        if member.role is Role.ADJACENCY:
            nodes = node_sets[""]
            tensors[name] = torch.sparse_coo_tensor(
                found[f"indices.{name}"],
                found[f"values.{name}"],
                (nodes.num_owned, nodes.num_owned + nodes.num_halo),
                is_coalesced=True,
                check_invariants=False,
            )
        else:
            tensors[name] = found[tensor_key(name)]
    return Shard(
        rank=rank,
        world_size=manifest["world_size"],
        node_sets=node_sets,
        edge_sets=edge_sets,
        tensors=tensors,
        members=members,
        positional=manifest["positional"],
        paths={e["name"]: from_json(e["path"]) for e in manifest["tensors"] if e["path"]},
        partition_id=manifest["partition_id"],
    )


def _identity(partition_id: str) -> Tensor:
    return torch.tensor(list(partition_id.encode()), dtype=torch.uint8)


def _node_shard(found: dict[str, Tensor], number: int, entry: dict[str, Any]) -> NodeShard:
    plans, ids = {}, {}
    for j, name in enumerate(entry["plans"]):
        key = f"nodes.{number}.{j}"
        send, recv = (tuple(found[f"{key}.{part}"].tolist()) for part in ("send_splits", "recv_splits"))
        ids[name] = found[f"{key}.ids"]
        halo = sum(recv)
        plans[name] = HaloPlan(ids[name].numel() - halo, halo, found[f"{key}.send_index"], send, recv)
    return NodeShard(entry["num_nodes"], plans, ids)
