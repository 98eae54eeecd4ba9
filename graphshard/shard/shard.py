"""One rank's part of the graph: its owned nodes, a halo, its own edges, in local numbers.

Owned nodes are 0..n-1, sorted by global id; halo nodes n..n+h-1, grouped by owner, sorted inside a group::

    global graph          rank 0 (owns A B)         rank 1 (owns C D)
    A -> B -> C -> D      A B                       C D | B
                          A->B  = (0, 1)            B->C = (2, 0)   C->D = (0, 1)
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.graph.paths import EdgeType, Path, PathKey, nested, path_name
from graphshard.graph.roles import GivenRole, Member, Role, as_member
from graphshard.graph.schema import MESSAGES, Schema, Sizes
from graphshard.ir.placement import Edges, Owned, Placed, Pointing, replicated
from graphshard.ir.roles import by_role
from graphshard.shard.as_data import NONE_UNLESS_GIVEN, AsData, missing, width_of
from graphshard.shard.assigned import member_for
from graphshard.shard.disk import Stamp
from graphshard.shard.gather import RowSet, gather_all, group_of, in_order
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.placed import Origin, PlacedTensor, as_placed, member_of, plain
from graphshard.shard.sparse_part import as_sparse_part


@dataclass(frozen=True, eq=False)
class ShardTensor:
    """The mark on a tensor that a shard holds: which shard, under which name, as what.

    Attributes:
        shard, name, member: of it.
        sure: the data or the user says what it is; a tensor that was assigned under a new name only fits by shape.
    """

    shard: Shard
    name: str
    member: Member
    sure: bool = True

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


def member_in(tensor: Tensor) -> Member | None:
    """The role and set of a tensor that knows them; None of a plain one."""
    mark = shard_tensor_of(tensor)
    if mark is not None:
        return mark.member
    return member_of(tensor.placement) if isinstance(tensor, PlacedTensor) else None


def shard_of(tensor: Tensor) -> Shard | None:
    """The shard that a tensor is a part of the graph by; None of a plain one."""
    mark = shard_tensor_of(tensor)
    if mark is not None:
        return mark.shard
    return tensor.shard if isinstance(tensor, PlacedTensor) else None


@dataclass(eq=False, repr=False)
class Shard(AsData):
    """What one rank holds of a graph with N nodes and E edges, e of them its own.

    ``shard.x`` is ``shard.tensors["x"]``, unless the name is one of the attributes below. Of a heterogeneous
    graph, as of a PyG ``HeteroData``, ``shard.x_dict`` holds the ``x`` of every type, and ``shard["paper"].x``
    or ``shard["author", "writes", "paper"].edge_index`` is that of one.

    It is read as the data that it was cut from, and ``shard.x = new`` replaces the rows of this rank, or adds new
    ones; ``model(shard)`` sees them. A tensor that does not fit, or any other attribute, is a ShardError.

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
        source: the file that its tensors lie in; None of a shard that was not loaded.
        unsure: names that were assigned later and whose role only their shape says.
        functions: of PyTorch that were called with its tensors, compiled.
        beside: what plain tensors they were given, which all ranks are to hold alike.
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
    unsure: frozenset[str] = frozenset()
    source: Stamp | None = None
    functions: dict[Any, Any] = field(default_factory=dict, init=False)
    beside: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        # detach() gives an object of the shard's own, so that no mark or requires_grad reaches the caller's.
        self.__dict__["tensors"] = {name: plain(value).detach() for name, value in self.tensors.items()}
        self.__dict__["members"] = dict(self.members)
        self.__dict__["paths"] = dict(self.paths)
        self._mark()

    def _mark(self) -> None:
        for name, value in list(self.tensors.items()):
            member = self.members[name]
            self.tensors[name] = self.marked(value, ShardTensor(self, name, member, name not in self.unsure))

    def marked(self, part: Tensor, mark: ShardTensor) -> Tensor:
        """This rank's part of a tensor under a mark, as what it is of the whole; the same memory and gradient."""
        if part.layout is torch.strided:
            part = as_placed(part, Origin(self, self._placement(mark.member, part)))
        elif self.world_size > 1 and mark.member.role is Role.ADJACENCY:
            part = as_sparse_part(part, self.node_set(mark.member.of).num_nodes)
        part._graphshard = mark  # type: ignore[attr-defined]
        return part

    def _placement(self, member: Member, part: Tensor) -> Placed:
        rows = {Role.REPLICATED: 0, Role.EDGE_INDEX: 2, Role.PAIRS: 2}.get(member.role, 1)
        return by_role(member.role, member.of, part.dim() - rows, self.schema)[0]

    def __setattr__(self, name: str, value: Any) -> None:
        own = {f.name for f in fields(Shard)}
        if name in own and name not in self.__dict__:
            self.__dict__[name] = value  # __init__
        elif name in own or hasattr(Shard, name):
            more = ": pass num_nodes= to partition()" if name == "num_nodes" else ""
            raise ShardError(f"shard.{name} is what partition() made and cannot be assigned{more}")
        else:
            self.put(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        self.put(name, value)

    def __delattr__(self, name: str) -> None:
        self.put(name, None)

    def __delitem__(self, name: str) -> None:
        self.put(name, None)

    def put(self, name: str, value: Tensor | None, *, role: str | None = None) -> None:
        """``shard.name = value``; says with ``role`` what it is where its shape leaves a doubt. Not collective.

        Args:
            name: of a tensor of the shard, or a new one.
            value: this rank's rows, ``[n, ...]`` or ``[e, ...]``; not copied, and kept with its gradient. None takes
                the tensor away.
            role: ``"node"``, ``"edge"`` or ``"replicated"``, with the set behind a colon; by default that of the
                tensor which it replaces, or the only one that fits. Every rank must say the same.

        Raises:
            ShardError: it is no tensor, or no rows of this shard; edges cannot be changed.
        """
        self.put_at((name,), value, role)

    def put_at(self, path: Path, value: Any, role: str | None = None) -> None:
        """:meth:`put` of what stands at a path in forward's arguments: ``("x_dict", "paper")``."""
        name, key = path_name(path), path[-1] if len(path) > 1 else None
        called = f"shard.{name}" if key is None else f"shard[{key!r}].{str(path[0]).removesuffix('_dict')}"
        known = self.members.get(name)
        if value is None:
            if known is not None and (known.role.is_index or known.role is Role.ADJACENCY):
                raise ShardError(
                    f"{called} holds edges, along which the shards were cut: it cannot be taken away"
                )
            for kept in (self.tensors, self.members, self.paths):
                kept.pop(name, None)
            return
        if not isinstance(value, Tensor):
            raise ShardError(f"{called} takes a tensor with this rank's rows, not a {type(value).__name__}")
        mark = shard_tensor_of(value)
        if shard_of(value) not in (None, self):
            raise ShardError(f"{called} takes rows of this shard, not a tensor of another shard")
        marked = member_in(value)
        own = self.own_sizes if key is None else self[key].own_sizes  # type: ignore[index]
        member = member_for(called, plain(value), own, known=known, marked=marked, role=role)
        unsure = known is None and marked is None and role is None
        self.__dict__["unsure"] = self.unsure | {name} if unsure else self.unsure - {name}
        if mark is None:
            # The same memory under a mark of its own: the caller's tensor is no shard's.
            part = plain(value)
            part = part if part.requires_grad else part.detach()
            value = self.marked(part, ShardTensor(self, name, member, not unsure))
        self.tensors[name], self.members[name] = value, member
        if key is not None:
            self.paths[name] = path

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
            pass
        if "node_sets" not in self.__dict__ or name.startswith("__"):  # while it is made, or copied
            raise AttributeError(name)
        if name in NONE_UNLESS_GIVEN and not self.typed and not self.positional:
            return None
        raise AttributeError(missing(name, tensors, self.typed))

    def __getitem__(self, key: str | tuple[str, ...]) -> Any:
        """A tensor by its name; of a heterogeneous graph what the shard holds of one node type, or edge type (also its
        relation alone), as ``HeteroData`` has it.

        Raises:
            ShardError: there is none.
        """
        if isinstance(key, str) and key in self.tensors:
            return self.tensors[key]
        if not self.typed:
            raise ShardError(missing(str(key), self.tensors, typed=False))
        known = [*self.node_types, *(path[1] for path in self.paths.values() if len(path) > 1)]
        matches = {k for k in known if k == key or (isinstance(k, tuple) and is_short_for(k, key))}
        if len(matches) != 1:
            types = ", ".join(str(k) for k in dict.fromkeys(known)) or "none"
            raise ShardError(f"{key!r} is not one type of this shard; it has {types}")
        return TypeShard(self, matches.pop())

    def collect(self, attribute: str) -> Any:
        """Type -> tensor of an attribute of a heterogeneous graph; ``collect("x")`` is ``x_dict``.

        Raises:
            ShardError: no type has it.
        """
        try:
            return self.argument(f"{attribute}_dict")
        except KeyError:
            raise ShardError(missing(attribute, self.tensors, self.typed)) from None

    def __getstate__(self) -> dict[str, Any]:
        parts = {n: plain(v).detach().requires_grad_(v.requires_grad) for n, v in self.tensors.items()}
        return {**self.__dict__, "tensors": parts, "functions": {}, "beside": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._mark()

    def __repr__(self) -> str:
        held = ", ".join(f"{name}={list(plain(value).shape)}" for name, value in self.tensors.items())
        return (
            f"Shard(rank={self.rank}/{self.world_size}, owned={self.num_owned}, halo={self.num_halo}, "
            f"edges={self.num_local_edges}, {held})"
        )

    def cpu(self) -> Shard:
        """The same shard on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None) -> Shard:
        """The same shard on a GPU, by default the current one."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def to(self, target: torch.device | torch.dtype | str | int, *, non_blocking: bool = False) -> Shard:
        """The same shard on a device, or with its floating tensors in another floating dtype.

        Args:
            target: a device (a number is that of a GPU), or a floating dtype; integers, masks and ids keep their
                dtype.
            non_blocking: as of ``Tensor.to``, of the tensors.

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
                tensors={
                    name: part.to(target) if part.is_floating_point() else part
                    for name, part in self.parts().items()
                },
            )
        else:
            target = torch.device("cuda", target) if isinstance(target, int) else target
            moved = replace(
                self,
                node_sets={name: nodes.to(target) for name, nodes in self.node_sets.items()},
                edge_sets={
                    name: replace(edges, edge_ids=edges.edge_ids.to(target))
                    for name, edges in self.edge_sets.items()
                },
                tensors={
                    name: part.to(target, non_blocking=non_blocking) for name, part in self.parts().items()
                },
            )
        for name, value in self.tensors.items():
            moved.tensors[name].requires_grad_(value.requires_grad)
        return moved

    def check_source(self) -> None:
        """See that the file it was loaded from is as it was: tensors lie in the file, not in a copy.

        Raises:
            ShardError: it was written to.
        """
        if self.source is not None and self.source.is_written_to():
            raise ShardError(
                f"{self.source.path} was written to since this shard was loaded from it, so the shard's tensors are no "
                "longer those of the partition: load the shard again, from a copy that nothing writes to"
            )

    def parts(self) -> dict[str, Tensor]:
        """name -> the plain tensor of this rank's part."""
        return {name: plain(value) for name, value in self.tensors.items()}

    def row_ids(self, member: Member) -> Tensor | None:
        """int64 global ids of the rows of a tensor of this kind; None where every rank holds all of it."""
        if member.role is Role.NODE:
            return self.node_set(member.of).owned_ids
        split = member.role in (Role.EDGE, Role.ADJACENCY, Role.INDEX)
        return self.edge_set(member.of).edge_ids if split else None

    def scatter(self, global_rows: Tensor, role: GivenRole) -> Tensor:
        """This rank's rows of a tensor that holds all rows.

        Args:
            global_rows: ``[N, ...]`` for a node role, ``[E, ...]`` for an edge role; any dtype.
            role: node or edge, or ``"node:type"``, ``"edge:set"``.

        Returns:
            ``[n, ...]`` rows of the owned nodes, or ``[e, ...]`` rows of the rank's edges; a tensor of the shard, which
            forward takes and ``shard.name = rows`` keeps under a name.

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
        own = global_rows[ids.to(global_rows.device)]
        return self.marked(own, ShardTensor(self, str(member), member))

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
            rows: what ``model(shard)`` returned, or was computed from that: rows of nodes, edges, pairs, or of those
                that a mask kept. Or a plain tensor ``[n, ...]``, a row for each owned node; any dtype, the same
                trailing shape on every rank.
            group: the process group whose ranks hold the shards; None for the default one.
            node_type: of a plain tensor's nodes, where the graph has several types.
            role: whose rows a plain tensor holds, where it is not nodes: ``"edge"``, ``"edge:set"`` for ``[e, ...]``, a
                row for each of the rank's edges, or pairs to be scored. ``"node:type"`` is ``node_type``.

        Returns:
            ``[N, ...]``, or ``[E, ...]``, on ``rows``'s device; the same on every rank.

        Raises:
            ShardError: on every rank alike, when any rank's rows do not fit its shard or another rank's; when
                the group is not as large as the number of shards.
            RuntimeMismatch: in backward, when the ranks' cotangents differ.
        """
        member = Member(Role.NODE, node_type) if role is None else as_member(role, "role")
        if isinstance(rows, PlacedTensor):
            if shard_of(rows) is not self:
                raise ShardError("gather takes rows of this shard, not a tensor of another shard")
            return self._gather_placed(rows, group_of(group, rows.group, self.world_size))
        name = group_of(group, None, self.world_size)
        gathered = gather_all(self.rank, self.row_set(member), rows, name)
        return self._whole(gathered, name)

    def _gather_placed(self, rows: PlacedTensor, name: str) -> Tensor:
        """Rows that say themselves which they are."""
        placed = rows.placement
        if placed.replicated:
            return rows
        if len(placed.sharded) > 1:
            raise ShardError(f"gather takes rows along one dim, not {placed}")
        (dim,) = placed.sharded
        found = self.global_numbers(rows.local(), placed.points)
        gathered = gather_all(self.rank, self._row_set_of(rows, dim, name), found.movedim(dim, 0), name)
        return self._whole(gathered.movedim(0, dim), name)

    def _row_set_of(self, rows: PlacedTensor, dim: int, name: str) -> RowSet:
        held = rows.placement.dims[dim]
        if isinstance(held, Owned):
            return self.row_set(Member(Role.NODE, held.nodes))
        if isinstance(held, Edges):
            return self.row_set(Member(Role.EDGE, held.name))
        if rows.ids is None:
            raise ShardError(f"the order of the rows {held} on one machine is not known")
        return RowSet(*in_order(rows.ids, self.rank, name), "rows")

    def _whole(self, value: Tensor, name: str) -> Tensor:
        """A value that every rank holds whole now."""
        return as_placed(value, Origin(self, replicated(value.dim()), name))

    def global_numbers(self, value: Tensor, points: Pointing) -> Tensor:
        """Numbers of nodes as the whole graph has them: of an ``edge_index``, of what was made of one.

        Args:
            value: integers, as this rank has them. points: what they number; None of other numbers, which stay.
        """
        if isinstance(points, tuple):
            parts = [self.global_numbers(part, p) for part, p in zip(value, points, strict=True)]
            return torch.stack(parts)
        if points is None:
            return value
        nodes = self.node_set(points.nodes)
        ids = nodes.owned_ids if points.plan is None else nodes.node_ids[points.plan]
        return ids.to(value.device)[value]

    def row_set(self, member: Member) -> RowSet:
        """The rows that this rank holds of a set of nodes or edges.

        Raises:
            ShardError: there is no such set, or another role.
        """
        if member.role is Role.NODE:
            nodes = self.node_set(member.of)
            return RowSet(nodes.owned_ids, nodes.num_nodes, "owned nodes")
        if member.role is not Role.EDGE:
            raise ShardError(f"only node and edge rows can be gathered, not {member.role.value!r}")
        edges = self.edge_set(member.of)
        return RowSet(edges.edge_ids, edges.num_edges, "edges")


@dataclass(eq=False, init=False)
class TypeShard:
    """What a shard holds of one node or edge type; ``shard["paper"].x``.

    Attributes:
        shard: the shard.
        key: the node type or edge type.
    """

    shard: Shard
    key: PathKey

    def __init__(self, shard: Shard, key: PathKey) -> None:
        self.__dict__.update(shard=shard, key=key)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Attribute -> tensor, as in PyG: ``x`` for what stands in ``x_dict``."""
        return self.shard.of_type(self.key)

    def keys(self) -> list[str]:
        """The names of its attributes."""
        return list(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ShardError(missing(name, self.tensors, typed=False))
        return self.tensors[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.shard.put_at((f"{name}_dict", self.key), value)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(TypeShard, name) or name in ("shard", "key"):
            raise ShardError(f"shard[{self.key!r}].{name} is what partition() made and cannot be assigned")
        self[name] = value

    @property
    def num_nodes(self) -> int:
        """N of a node type, in the whole graph."""
        return self.nodes.num_nodes

    @property
    def num_edges(self) -> int:
        """E of an edge type, in the whole graph."""
        return self.edges.num_edges

    @property
    def num_features(self) -> int:
        """The width of ``x`` of a node type, of ``edge_attr`` of an edge type; 0 without one."""
        return width_of(self.tensors.get("x" if isinstance(self.key, str) else "edge_attr"))

    @property
    def num_node_features(self) -> int:
        """The width of ``x``; 0 without one."""
        return width_of(self.tensors.get("x"))

    @property
    def num_edge_features(self) -> int:
        """The width of ``edge_attr``; 0 without one."""
        return width_of(self.tensors.get("edge_attr"))

    @property
    def own_sizes(self) -> Sizes:
        """How many rows of the type's sets are this rank's own."""
        own = self.shard.own_sizes
        if not isinstance(self.key, tuple):
            return Sizes({str(self.key): own.nodes[str(self.key)]}, {})
        main = "__".join(self.key)
        below = {n: count for n, count in own.edges.items() if n == main or n.startswith(f"{main}.")}
        return Sizes({}, below)

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
