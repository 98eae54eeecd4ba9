"""One rank's part of the graph: its owned nodes, a halo, its own edges, in local numbers.

Owned nodes are 0..n-1, sorted by global id; halo nodes n..n+h-1, grouped by owner, sorted inside a group::

    global graph          rank 0 (owns A B)         rank 1 (owns C D)
    A -> B -> C -> D      A B                       C D | B
                          A->B  = (0, 1)            B->C = (2, 0)   C->D = (0, 1)
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.halo import HaloPlan
from graphshard.roles import Role


@dataclass(frozen=True, eq=False)
class ShardTensor:
    """The mark on a tensor that a shard holds: which shard, under which name, in which role."""

    shard: Shard
    name: str
    role: Role

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

    ``shard.x`` is ``shard.tensors["x"]``, unless the name is one of the attributes below.

    Attributes:
        rank: this part's number, 0..world_size-1.
        world_size: number of parts.
        num_nodes: N, of the whole graph.
        num_edges: E, of the whole graph.
        halo: this rank's side of the halo exchange.
        node_ids: int64 ``[n+h]``, global ids of the owned, then the halo nodes.
        edge_ids: int64 ``[e]``, the edges' positions in the whole graph, ascending.
        tensors: name -> tensor, in the order of the data. Node tensors ``[n, ...]``, edge tensors
            ``[e, ...]``, edge index ``[2, e]``, adjacency ``[n, n+h]`` (COO marked coalesced: rows ascend,
            a row's entries keep the whole graph's order), replicated as they were. Always detached.
        roles: name -> role.
        positional: the data was a sequence, its names are positions.
    """

    rank: int
    world_size: int
    num_nodes: int
    num_edges: int
    halo: HaloPlan
    node_ids: Tensor
    edge_ids: Tensor
    tensors: dict[str, Tensor]
    roles: dict[str, Role]
    positional: bool = False

    def __post_init__(self) -> None:
        # detach() gives an object of the shard's own, so that no mark or requires_grad reaches the caller's.
        self.tensors = {name: value.detach() for name, value in self.tensors.items()}
        self._mark()

    def _mark(self) -> None:
        for name, value in self.tensors.items():
            value._graphshard = ShardTensor(self, name, self.roles[name])  # type: ignore[attr-defined]

    @property
    def num_owned(self) -> int:
        """n, the number of owned nodes."""
        return self.halo.num_owned

    @property
    def num_halo(self) -> int:
        """h, the number of halo nodes."""
        return self.halo.num_halo

    @property
    def num_local_edges(self) -> int:
        """e, the number of edges whose destination is owned."""
        return self.edge_ids.numel()

    def __getattr__(self, name: str) -> Tensor:
        tensors: dict[str, Tensor] = self.__dict__.get("tensors", {})
        if name in tensors:
            return tensors[name]
        raise AttributeError(f"this shard has no tensor {name!r}; it has {', '.join(tensors) or 'none'}")

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
                halo=self.halo.to(target),
                node_ids=self.node_ids.to(target),
                edge_ids=self.edge_ids.to(target),
                tensors={name: value.to(target) for name, value in self.tensors.items()},
            )
        for name, value in self.tensors.items():
            moved.tensors[name].requires_grad_(value.requires_grad)
        return moved

    def scatter(self, global_rows: Tensor, role: Role | str) -> Tensor:
        """This rank's rows of a tensor that holds all rows.

        Args:
            global_rows: ``[N, ...]`` for a node role, ``[E, ...]`` for an edge role; any dtype.
            role: node or edge.

        Returns:
            ``[n, ...]`` rows of the owned nodes, or ``[e, ...]`` rows of the rank's edges.

        Raises:
            ShardError: another role, or a wrong number of rows.
        """
        role = Role(role)
        if role not in (Role.NODE, Role.EDGE):
            raise ShardError(f"only node and edge rows can be scattered, not {role.value!r}")
        ids, rows = (
            (self.node_ids[: self.num_owned], self.num_nodes)
            if role is Role.NODE
            else (self.edge_ids, self.num_edges)
        )
        if global_rows.dim() == 0 or global_rows.size(0) != rows:
            raise ShardError(
                f"scatter takes one row for each of {rows} {role.value}s, not {list(global_rows.shape)}"
            )
        return global_rows[ids.to(global_rows.device)]

    def gather(self, rows: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
        """All ranks' rows in the original node order, on every rank. Collective; not differentiable.

        Args:
            rows: ``[n, ...]``, a row for each owned node; any dtype, the same trailing shape on every rank.
            group: the process group whose ranks hold the shards; None for the default one.

        Returns:
            ``[N, ...]``, detached, on ``rows``'s device.

        Raises:
            ShardError: on every rank alike, when any rank's rows do not fit its shard or another rank's; when
                the group is not as large as the number of shards.
        """
        joined = dist.is_available() and dist.is_initialized()
        size = dist.get_world_size(group) if joined else 1
        if size != self.world_size:
            raise ShardError(f"gather needs the {self.world_size} ranks of these shards, this job has {size}")
        rows = rows.detach()
        owned = self.node_ids[: self.num_owned].to(rows.device)
        header = torch.tensor(_header(self, rows), dtype=torch.int64, device=rows.device)
        if size == 1:
            _check_headers([header.tolist()])
            return _place([owned], [rows], self.num_nodes)
        headers = [torch.empty_like(header) for _ in range(size)]
        dist.all_gather(headers, header, group=group)
        table = [one.tolist() for one in headers]
        _check_headers(table)
        counts = [line[1] for line in table]
        ids = _all_gather_rows(owned, counts, group)
        return _place(ids, _all_gather_rows(rows, counts, group), self.num_nodes)


def _header(shard: Shard, rows: Tensor) -> list[int]:
    """What the ranks must agree on before rows are exchanged."""
    count = rows.size(0) if rows.dim() > 0 else -1
    kind = zlib.crc32(f"{rows.dtype} {list(rows.shape[1:])}".encode())
    return [shard.rank, shard.num_owned, count, kind, shard.num_nodes]


def _check_headers(table: list[list[int]]) -> None:
    """Every rank sees the same table, so that all raise or none does: no rank is left waiting."""
    for rank, owned, count, kind, num_nodes in table:
        if count != owned:
            found = "a 0-dim tensor" if count < 0 else f"{count} rows"
            raise ShardError(
                f"gather takes one row for each of the {owned} owned nodes of rank {rank}, not {found}"
            )
        if kind != table[0][3]:
            raise ShardError(
                f"gather got another dtype or row shape on rank {rank} than on rank {table[0][0]}"
            )
        if num_nodes != table[0][4]:
            raise ShardError(f"rank {rank} holds a shard of another graph than rank {table[0][0]}")
    if sorted(line[0] for line in table) != list(range(len(table))):
        raise ShardError(f"the ranks hold shards {[line[0] for line in table]}, some of them twice")


def _all_gather_rows(rows: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Rows of every rank. Padded to the longest, for gloo gathers only equal sizes."""
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: rows.size(0)] = rows
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(received, padded, group=group)
    return [part[:count] for part, count in zip(received, counts, strict=True)]


def _place(ids: list[Tensor], parts: list[Tensor], num_nodes: int) -> Tensor:
    result = parts[0].new_empty((num_nodes, *parts[0].shape[1:]))
    result[torch.cat(ids)] = torch.cat(parts)
    return result
