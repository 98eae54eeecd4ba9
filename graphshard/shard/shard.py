"""One rank's part of the graph: its owned nodes, a halo, its own edges, in local numbers.

Owned nodes are 0..n-1, sorted by global id; halo nodes n..n+h-1, grouped by owner, sorted inside a group::

    global graph          rank 0 (owns A B)         rank 1 (owns C D)
    A -> B -> C -> D      A B                       C D | B
                          A->B  = (0, 1)            B->C = (2, 0)   C->D = (0, 1)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.graph.paths import EdgeType, Path, PathKey, nested
from graphshard.graph.roles import GivenRole, Member, Role, as_member
from graphshard.graph.schema import MESSAGES, Schema, Sizes
from graphshard.shard.gather import RowSet, gather_all
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard


@dataclass(frozen=True, eq=False)
class ShardTensor:
    """The mark on a tensor that a shard holds: which shard, under which name, as what."""

    shard: Shard
    name: str
    member: Member

    @property
    def role(self) -> Role:
        return self.member.role

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardTensor:
        # Copying one tensor must not copy the graph; a copied Shard marks its tensors anew.
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # Saving one tensor must not save the graph: the mark is lost on the way.
        return type(None), ()


def shard_tensor_of(tensor: Tensor) -> ShardTensor | None:
    """The mark of a tensor that a shard holds; None of any other, results computed from one included."""
    mark = getattr(tensor, "_graphshard", None)
    return mark if isinstance(mark, ShardTensor) else None


@dataclass(eq=False, repr=False)
class Shard:
    """What one rank holds of a graph with N nodes and E edges, e of them its own.

    ``shard.x`` is ``shard.tensors["x"]``, unless the name is one of the attributes below. Of a heterogeneous
    graph, as of a PyG ``HeteroData``, ``shard.x_dict`` holds the ``x`` of every type, and ``shard["paper"].x``
    or ``shard["author", "writes", "paper"].edge_index`` is that of one.

    Attributes:
        rank: this part's number, 0..world_size-1.
        world_size: number of parts.
        node_sets: its nodes of each node set; a homogeneous graph has one, named "".
        edge_sets: its edges of each edge set; the main one of a homogeneous graph is named "".
        tensors: name -> tensor, in the order of the data. Node tensors ``[n, ...]``, edge tensors
            ``[e, ...]``, edge index ``[2, e]``, adjacency ``[n, n+h]`` (COO marked coalesced: rows ascend,
            a row's entries keep the whole graph's order), replicated as they were. Always detached.
        members: name -> role and set.
        positional: the data was a sequence, its names are positions.
        paths: name -> where in forward's arguments a tensor is, if it is no argument itself.
        partition_id: a digest of the whole data and its cut, the same in all shards of one partition; equal
            data cut alike have the same.
    """

    rank: int
    world_size: int
    node_sets: dict[str, NodeShard]
    edge_sets: dict[str, EdgeShard]
    tensors: dict[str, Tensor]
    members: dict[str, Member]
    positional: bool = False
    paths: dict[str, Path] = field(default_factory=dict)
    partition_id: str = ""

    def __post_init__(self) -> None:
        # detach() gives an object of the shard's own, so that no mark or requires_grad reaches the caller's.
        self.tensors = {name: value.detach() for name, value in self.tensors.items()}
        self._mark()

    def _mark(self) -> None:
        for name, value in self.tensors.items():
            value._graphshard = ShardTensor(self, name, self.members[name])  # type: ignore[attr-defined]

    @property
    def roles(self) -> dict[str, Role]:
        """name -> role."""
        return {name: member.role for name, member in self.members.items()}

    @property
    def schema(self) -> Schema:
        """What kinds of nodes and edges there are."""
        return Schema(tuple(self.node_sets), tuple(edges.edge_set for edges in self.edge_sets.values()))

    @property
    def sizes(self) -> Sizes:
        """How many rows each set has in the whole graph."""
        return Sizes(
            {name: nodes.num_nodes for name, nodes in self.node_sets.items()},
            {name: edges.num_edges for name, edges in self.edge_sets.items()},
        )

    @property
    def own_sizes(self) -> Sizes:
        """How many rows of each set are this rank's own."""
        return Sizes(
            {name: nodes.num_owned for name, nodes in self.node_sets.items()},
            {name: edges.edge_ids.numel() for name, edges in self.edge_sets.items()},
        )

    @property
    def num_nodes(self) -> int:
        """N, of the whole graph; of all node sets together."""
        return sum(nodes.num_nodes for nodes in self.node_sets.values())

    @property
    def num_edges(self) -> int:
        """E, of the whole graph; pairs to be scored are not counted."""
        return sum(self.edge_sets[e.name].num_edges for e in self.schema.messages)

    @property
    def num_owned(self) -> int:
        """n, the number of owned nodes; of all node sets together."""
        return sum(nodes.num_owned for nodes in self.node_sets.values())

    @property
    def num_halo(self) -> int:
        """h, the number of halo nodes that edges read; of all node sets together."""
        return sum(nodes.num_halo for nodes in self.node_sets.values())

    @property
    def num_local_edges(self) -> int:
        """e, the number of edges whose destination is owned; pairs to be scored are not counted."""
        return sum(self.edge_sets[e.name].edge_ids.numel() for e in self.schema.messages)

    @property
    def halo(self) -> HaloPlan:
        """This rank's side of the halo exchange of a homogeneous graph."""
        return self.node_set("").plans[MESSAGES]

    @property
    def node_ids(self) -> Tensor:
        """int64 ``[n+h]``, of a homogeneous graph: global ids of the owned, then the halo nodes."""
        return self.node_set("").node_ids[MESSAGES]

    @property
    def edge_ids(self) -> Tensor:
        """int64 ``[e]``, of a homogeneous graph: the edges' positions in the whole graph, ascending."""
        return self.edge_set("").edge_ids

    def node_set(self, name: str = "") -> NodeShard:
        """This rank's part of one node set; by default of the only one of a homogeneous graph.

        Raises:
            ShardError: there is no such set.
        """
        if name not in self.node_sets:
            known = ", ".join(repr(n) for n in self.node_sets)
            asked = f"has no node type {name!r}" if name else "is of a heterogeneous graph"
            raise ShardError(f"this shard {asked}: its node types are {known}; name one of them")
        return self.node_sets[name]

    def edge_set(self, name: str = "") -> EdgeShard:
        """This rank's part of one edge set; by default of the main one of a homogeneous graph.

        Raises:
            ShardError: there is no such set.
        """
        if name not in self.edge_sets:
            known = ", ".join(repr(n) for n in self.edge_sets)
            asked = f"has no edge set {name!r}" if name else "is of a heterogeneous graph"
            raise ShardError(f"this shard {asked}: its edge sets are {known}; name one of them")
        return self.edge_sets[name]

    def argument(self, name: str) -> Any:
        """The argument of forward of that name: a tensor, or the dict or tuple of tensors that it is.

        As in a PyG ``HeteroData``, ``x_dict`` and ``collect("x")``, here ``x``, are the same.

        Raises:
            KeyError: there is none.
        """
        if name in self.tensors:
            return self.tensors[name]
        for head in (name, f"{name}_dict"):
            below = {path[1:]: self.tensors[n] for n, path in self.paths.items() if path[0] == head}
            if below:
                return nested(below)
        raise KeyError(name)

    def __getattr__(self, name: str) -> Any:
        tensors: dict[str, Tensor] = self.__dict__.get("tensors", {})
        try:
            return self.argument(name) if "paths" in self.__dict__ else tensors[name]
        except KeyError:
            raise AttributeError(
                f"this shard has no tensor {name!r}; it has {', '.join(tensors) or 'none'}"
            ) from None

    def __getitem__(self, key: str | tuple[str, ...]) -> TypeShard:
        """What the shard holds of one node type, or edge type (also its relation alone), as ``HeteroData`` has it."""
        known = [path[1] for path in self.paths.values()]
        matches = {k for k in known if k == key or (isinstance(k, tuple) and is_short_for(k, key))}
        if len(matches) != 1:
            types = ", ".join(str(k) for k in dict.fromkeys(known)) or "none"
            raise ShardError(f"{key!r} is not one type of this shard; it has {types}")
        return TypeShard(self, matches.pop())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._mark()

    def __repr__(self) -> str:
        held = ", ".join(f"{name}={list(value.shape)}" for name, value in self.tensors.items())
        return (
            f"Shard(rank={self.rank}/{self.world_size}, owned={self.num_owned}, halo={self.num_halo}, "
            f"edges={self.num_local_edges}, {held})"
        )

    def to(self, target: torch.device | torch.dtype | str) -> Shard:
        """The same shard on a device, or with its floating tensors in another floating dtype.

        Args:
            target: a device, or a floating dtype; integers, masks and ids keep their dtype.

        Returns:
            A new shard; tensors keep ``requires_grad`` and are leaves.

        Raises:
            ShardError: the dtype is not floating.
        """
        if isinstance(target, torch.dtype):
            if not target.is_floating_point:
                raise ShardError(
                    f"a shard's features cannot become {target}: give a device or a floating dtype"
                )
            moved = replace(
                self,
                tensors={k: v.to(target) if v.is_floating_point() else v for k, v in self.tensors.items()},
            )
        else:
            moved = replace(
                self,
                node_sets={name: nodes.to(target) for name, nodes in self.node_sets.items()},
                edge_sets={
                    name: replace(edges, edge_ids=edges.edge_ids.to(target))
                    for name, edges in self.edge_sets.items()
                },
                tensors={name: value.to(target) for name, value in self.tensors.items()},
            )
        for name, value in self.tensors.items():
            moved.tensors[name].requires_grad_(value.requires_grad)
        return moved

    def row_ids(self, member: Member) -> Tensor | None:
        """int64 global ids of the rows of a tensor of this kind; None where every rank holds all of it."""
        if member.role is Role.NODE:
            return self.node_set(member.of).owned_ids
        split = member.role in (Role.EDGE, Role.ADJACENCY)
        return self.edge_set(member.of).edge_ids if split else None

    def scatter(self, global_rows: Tensor, role: GivenRole) -> Tensor:
        """This rank's rows of a tensor that holds all rows.

        Args:
            global_rows: ``[N, ...]`` for a node role, ``[E, ...]`` for an edge role; any dtype.
            role: node or edge, or ``"node:type"``, ``"edge:set"``.

        Returns:
            ``[n, ...]`` rows of the owned nodes, or ``[e, ...]`` rows of the rank's edges.

        Raises:
            ShardError: another role, or a wrong number of rows.
        """
        member = as_member(role, "role")
        if member.role not in (Role.NODE, Role.EDGE):
            raise ShardError(f"only node and edge rows can be scattered, not {member.role.value!r}")
        ids = self.row_ids(member)
        assert ids is not None
        rows = (self.sizes.nodes if member.role is Role.NODE else self.sizes.edges)[member.of]
        if global_rows.dim() == 0 or global_rows.size(0) != rows:
            raise ShardError(
                f"scatter takes one row for each of {rows} {member.role.value}s, not {list(global_rows.shape)}"
            )
        return global_rows[ids.to(global_rows.device)]

    def gather(
        self,
        rows: Tensor,
        group: dist.ProcessGroup | None = None,
        *,
        node_type: str = "",
        role: GivenRole | None = None,
    ) -> Tensor:
        """All ranks' rows in the order of the whole graph, on every rank. Collective; differentiable, to any order.

        In backward every rank takes its rows of the cotangent, which must be the same on every rank: every rank
        computes the same loss of all rows.

        Args:
            rows: ``[n, ...]``, a row for each owned node; any dtype, the same trailing shape on every rank.
            group: the process group whose ranks hold the shards; None for the default one.
            node_type: of the nodes, where the graph has several types.
            role: whose rows they are, where it is not nodes: ``"edge"``, ``"edge:set"`` for ``[e, ...]``, a row for
                each of the rank's edges, or pairs to be scored. ``"node:type"`` is ``node_type``.

        Returns:
            ``[N, ...]``, or ``[E, ...]``, on ``rows``'s device.

        Raises:
            ShardError: on every rank alike, when any rank's rows do not fit its shard or another rank's; when
                the group is not as large as the number of shards.
            RuntimeMismatch: in backward, when the ranks' cotangents differ.
        """
        member = Member(Role.NODE, node_type) if role is None else as_member(role, "role")
        return gather_all(self.rank, self.world_size, self._row_set(member), rows, group)

    def _row_set(self, member: Member) -> RowSet:
        if member.role is Role.NODE:
            nodes = self.node_set(member.of)
            return RowSet(nodes.owned_ids, nodes.num_nodes, "owned nodes")
        if member.role is not Role.EDGE:
            raise ShardError(f"only node and edge rows can be gathered, not {member.role.value!r}")
        edges = self.edge_set(member.of)
        return RowSet(edges.edge_ids, edges.num_edges, "edges")


@dataclass(frozen=True, eq=False)
class TypeShard:
    """What a shard holds of one node or edge type; ``shard["paper"].x``.

    Attributes:
        shard: the shard.
        key: the node type or edge type.
    """

    shard: Shard
    key: PathKey

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Attribute -> tensor, as in PyG: ``x`` for what stands in ``x_dict``."""
        return {
            str(path[0]).removesuffix("_dict"): self.shard.tensors[name]
            for name, path in self.shard.paths.items()
            if path[1:] == (self.key,)
        }

    @property
    def nodes(self) -> NodeShard:
        """The nodes of a node type: counts, global ids, halo plans."""
        return self.shard.node_set(str(self.key))

    @property
    def edges(self) -> EdgeShard:
        """The edges of an edge type: counts, positions in the whole graph."""
        return self.shard.edge_set("__".join(self.key) if isinstance(self.key, tuple) else str(self.key))

    def __getattr__(self, name: str) -> Tensor:
        tensors = self.tensors if "shard" in self.__dict__ else {}
        if name in tensors:
            return tensors[name]
        raise AttributeError(
            f"{self.__dict__.get('key')} has no tensor {name!r}; it has {', '.join(tensors) or 'none'}"
        )


def is_short_for(edge_type: EdgeType, key: str | tuple[str, ...]) -> bool:
    """Whether ``key`` is the relation, or the two ends, of an edge type."""
    return key in (edge_type[1], (edge_type[0], edge_type[2]))
