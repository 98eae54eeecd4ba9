"""Whole in, whole out: a call with whole tensors, on several ranks.

::

    x [N, F] ------- take_rows -----> [n, F] --+             +--> [n, C] -- gather_rows --> [N, C]  whole
    edge_index [2, E] -- renumber --> [2, e] --+-> program --+--> replicated -----------------> as it is

Each rank holds the whole tensors and all outputs; the work on edges and everything in between is cut. What a script
does with the outputs it does on every rank alike, so a loss is the single machine's, and the backward of the gather is
this rank's rows of the cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.errors import RuntimeMismatch, ShardError, UnsupportedOperation
from graphshard.execute.agreement import digest
from graphshard.execute.bind import data_taken_whole, from_data, names_of, whole_arguments
from graphshard.execute.run import Outputs
from graphshard.graph.data import GraphData, as_graph_data
from graphshard.graph.readers import read_graph
from graphshard.graph.roles import Member, Role
from graphshard.ir.placement import Edges, Owned, Placed, Rows
from graphshard.ops.gather import check_equal_on_ranks, gather_rows, take_rows
from graphshard.partitioning.assign import assign
from graphshard.partitioning.numbering import build_shard, number_nodes
from graphshard.private import pytree
from graphshard.ranks.checksums import Contents
from graphshard.ranks.groups import (
    all_gather_numbers,
    all_gather_object,
    broadcast_first,
    group_rank,
    group_size,
)
from graphshard.shard.gather import in_order
from graphshard.shard.placed import PlacedTensor
from graphshard.shard.shard import Shard, ShardTensor, shard_of, shard_tensor_of

PARTITION = "whole"
"""The ``partition_id`` of shards that are cut from whole arguments: these are compared by themselves."""

# A new edge_index keeps the nodes' parts while it cuts at most this much more of its edges than the graph they are of.
_MORE_CUT = 1.5


def is_whole(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call passes whole tensors: neither a shard nor a tensor of one is among the arguments."""
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return not any(
        isinstance(leaf, Shard) or (isinstance(leaf, Tensor) and _is_part(leaf)) for leaf in leaves
    )


def _is_part(tensor: Tensor) -> bool:
    """Whether it is a tensor of a shard, or rows computed from one; not what every rank holds whole."""
    computed = shard_tensor_of(tensor) is None
    whole = computed and isinstance(tensor, PlacedTensor) and tensor.placement.replicated
    return shard_of(tensor) is not None and not whole


@dataclass(frozen=True)
class Cut:
    """One call with whole tensors, as this rank's program takes it.

    Attributes:
        shard: this rank's part of the graph.
        args, kwargs: the arguments, each tensor replaced by this rank's part of it.
        group: the process group's name.
    """

    shard: Shard
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    group: str

    def gather(self, outputs: Outputs) -> Outputs:
        """The outputs with all ranks' rows, in the order of one machine. Collective; differentiable.

        Raises:
            UnsupportedOperation: an output has rows of the graph along several dims.
        """
        if group_size(self.group) == 1:
            return outputs
        gathered = [
            self._gather(value, placement, outputs.ids)
            for value, placement in zip(outputs.values, outputs.placements, strict=True)
        ]
        return replace(outputs, values=gathered)

    def take(self, whole: Tensor, nodes: str) -> Tensor:
        """This rank's rows of a tensor with a row for each node of a set; differentiable.

        Raises:
            ShardError: it has another number of rows.
        """
        held = self.shard.node_set(nodes)
        if whole.dim() == 0 or whole.size(0) != held.num_nodes:
            raise ShardError(
                f"a node parameter must have one row for each of the {held.num_nodes} nodes, but its shape is "
                f"{list(whole.shape)}"
            )
        return _taken(whole, held.owned_ids, self.group)

    def _gather(self, value: Tensor, placement: Any, ids: Mapping[str, Tensor]) -> Tensor:
        if not isinstance(placement, Placed):
            return value
        value = self.shard.global_numbers(value, placement.points)
        if not placement.sharded:
            return value
        if len(placement.sharded) > 1:
            raise UnsupportedOperation(
                f"an output has rows of the graph along the dims {placement.sharded}: return a tensor with such "
                "rows along one dim"
            )
        (dim,) = placement.sharded
        places, count = self._places(placement.dims[dim], ids, value.device)
        rows: Tensor = gather_rows(value.movedim(dim, 0), places, count, self.group)
        return rows.movedim(0, dim)

    def _places(
        self, rows: Rows | None, ids: Mapping[str, Tensor], device: torch.device
    ) -> tuple[Tensor, int]:
        """Where this rank's rows stand in the whole, and how many that has."""
        if isinstance(rows, (Owned, Edges)):
            member = (
                Member(Role.NODE, rows.nodes) if isinstance(rows, Owned) else Member(Role.EDGE, rows.name)
            )
            of = self.shard.row_set(member)
            return of.ids.to(device), of.num_rows
        places, count = in_order(ids[str(rows)], self.shard.rank, self.group)
        return places.to(device), count


@dataclass
class _Graph:
    """The graph of the last call, cut; of each tensor what was known of it, and this rank's part."""

    shard: Shard
    assignments: dict[str, Tensor]
    counts: dict[str, int]
    cut_share: float
    kinds: tuple[Any, ...]
    local: dict[str, tuple[str, Tensor]]


@dataclass
class Whole:
    """Cuts the whole tensors of each call of one distributed module; what has not changed stays cut."""

    _graph: _Graph | None = None
    _contents: Contents = field(default_factory=Contents)

    def cut(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        roles: Mapping[str, Member],
        counts: Mapping[str, int],
        group: str,
    ) -> Cut:
        """One call's arguments, cut. Collective.

        Args:
            model: the user's module.
            args, kwargs: whole tensors, or one PyG ``Data`` or ``HeteroData`` of which forward's arguments are taken.
            roles: that the user gave, by argument name.
            counts: node set -> N, of those that a node parameter has rows for.
            group: the process group's name.

        Raises:
            RuntimeMismatch: on every rank, where the ranks pass different tensors.
            PartitionError: a role cannot be told, or an edge does not fit.
        """
        if (data := data_taken_whole(model, args, kwargs)) is not None:
            shard = self._cut_data(data, counts, group)
            args, kwargs = pytree.tree_map(lambda value: shard if value is data else value, (args, kwargs))
            return Cut(shard, args, kwargs, group)
        args, kwargs, said = from_data(model, args, kwargs)
        leaves, structure = pytree.tree_flatten((args, kwargs))
        names = names_of(model, args, kwargs)
        tensors = {n: v for n, v in zip(names, leaves, strict=True) if isinstance(v, Tensor)}
        given = {name: role for name, role in roles.items() if name in tensors}
        local = self._local(
            tensors,
            lambda: as_graph_data(whole_arguments(model, args, kwargs), given, {**said, **counts}),
            group,
        )
        assert self._graph is not None
        args, kwargs = pytree.tree_unflatten(
            [local.get(name, leaf) for name, leaf in zip(names, leaves, strict=True)], structure
        )
        return Cut(self._graph.shard, tuple(args), dict(kwargs), group)

    def _cut_data(self, data: Any, counts: Mapping[str, int], group: str) -> Shard:
        """A graph that forward takes as one argument: a shard of it is cut from it."""
        tensors = dict(read_graph(data, dict(counts)).tensors)
        local = self._local(tensors, lambda: as_graph_data(data, None, dict(counts)), group)
        assert self._graph is not None
        return replace(self._graph.shard, tensors=local)

    def _local(
        self, tensors: dict[str, Tensor], read: Callable[[], GraphData], group: str
    ) -> dict[str, Tensor]:
        """This rank's part of each tensor; the graph is read and cut anew where it changed on any rank."""
        kinds = tuple((name, t.shape, t.dtype, t.layout) for name, t in tensors.items())
        facts = {name: self._facts_of(name, tensor) for name, tensor in tensors.items()}
        self._contents.keep(facts)
        stale = self._graph is None or self._graph.kinds != kinds or not self._same_edges(facts)
        if self._agree(tensors, facts, stale, group):
            self._graph = self._partition(read(), kinds, facts, group)
        return {name: self._take(name, tensor, facts[name], group) for name, tensor in tensors.items()}

    def _agree(self, tensors: Mapping[str, Tensor], mine: dict[str, str], stale: bool, group: str) -> bool:
        """Make sure that all ranks pass the same, and find out whether any has to cut. One message of two numbers."""
        if group_size(group) == 1 or not tensors:
            return stale
        device = next(iter(tensors.values())).device
        everyone = all_gather_numbers([digest(mine), int(stale)], device, group)
        if any(other[0] != everyone[0][0] for other in everyone):
            raise RuntimeMismatch(_difference(all_gather_object(mine, group)))
        for name, tensor in tensors.items():
            if tensor.grad_fn is not None:
                check_equal_on_ranks(tensor, group, f"argument {name!r}")
        return any(other[1] for other in everyone)

    def _facts_of(self, name: str, tensor: Tensor) -> str:
        """A text that differs where tensors do; of what the script computes with a gradient only its kind."""
        kind = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        if tensor.grad_fn is not None:  # compared by itself: a device may add in another order
            return f"{kind} with a gradient"
        return f"{kind} with content {''.join(self._contents.of(name, tensor))}"

    def _same_edges(self, facts: Mapping[str, str]) -> bool:
        """Whether the tensors that make up the graph are those that it was cut by."""
        assert self._graph is not None
        of = {n for n, m in self._graph.shard.members.items() if m.role.is_index or m.role is Role.ADJACENCY}
        return all(self._graph.local[name][0] == facts[name] for name in of)

    def _partition(
        self, whole: GraphData, kinds: tuple[Any, ...], facts: Mapping[str, str], group: str
    ) -> _Graph:
        assignments, share = self._assign(whole, group)
        shard = build_shard(whole, number_nodes(whole, assignments, group_size(group)), group_rank(group))
        shard = replace(shard, partition_id=PARTITION)
        local = {name: (fact, shard.tensors[name]) for name, fact in facts.items()}
        return _Graph(shard, assignments, dict(whole.node_counts), share, kinds, local)

    def _assign(self, whole: GraphData, group: str) -> tuple[dict[str, Tensor], float]:
        """The parts of the nodes, and the share of the edges that they cut: rank 0 decides."""
        before = self._graph
        if before is not None and before.counts == whole.node_counts:
            share = _cut_share(whole, before.assignments)
            if share <= _MORE_CUT * before.cut_share:
                return before.assignments, before.cut_share
        if group_rank(group) == 0:
            found = assign(whole, group_size(group), "metis", 0)
        else:
            found = {name: torch.empty(n, dtype=torch.int64) for name, n in whole.node_counts.items()}
        device = next(iter(whole.tensors.values())).device
        for name, parts in found.items():
            moved = parts.to(device).contiguous()
            broadcast_first(moved, group)
            found[name] = moved.cpu()
        return found, _cut_share(whole, found)

    def _take(self, name: str, tensor: Tensor, fact: str, group: str) -> Tensor:
        """This rank's part of one tensor, marked as the shard's."""
        assert self._graph is not None
        shard = self._graph.shard
        member = shard.members[name]
        ids = shard.row_ids(member) if member.role in (Role.NODE, Role.EDGE) else None
        if tensor.requires_grad and member.role is Role.ADJACENCY:
            raise ShardError(
                f"the adjacency {name!r} needs a gradient, which a sparse matrix does not get: pass an edge_index and "
                "the weights of the edges"
            )
        if tensor.requires_grad:
            local = tensor.view_as(tensor) if ids is None else _taken(tensor, ids, group)
        else:
            known, local = self._graph.local[name]
            if known != fact:
                local = tensor.detach() if ids is None else _taken(tensor.detach(), ids, group)
                self._graph.local[name] = fact, local
        local._graphshard = ShardTensor(shard, name, member)  # type: ignore[attr-defined]
        return local


def _taken(whole: Tensor, ids: Tensor, group: str) -> Tensor:
    if group_size(group) == 1:
        return whole.view_as(whole)
    rows: Tensor = take_rows(whole, ids.to(whole.device), group)
    return rows


def _difference(everyone: list[dict[str, str]]) -> str:
    """What differs first between the ranks, as a sentence."""
    first = everyone[0]
    rank, theirs = next((rank, other) for rank, other in enumerate(everyone) if other != first)
    name = next(name for name in {**first, **theirs} if first.get(name) != theirs.get(name))
    return (
        f"argument {name!r} is {first.get(name, 'missing')} on rank 0 but {theirs.get(name, 'missing')} on rank "
        f"{rank}: with whole tensors every rank must pass the same; let what is drawn at random be drawn alike "
        "(graphshard.init() seeds all ranks as rank 0), or pass a shard"
    )


def _cut_share(whole: GraphData, assignments: Mapping[str, Tensor]) -> float:
    """The share of the edges that messages run along whose ends belong to different parts."""
    cut = total = 0
    for edge_set in whole.schema.messages:
        source, destination = whole.edges(edge_set.name).cpu()
        ends = assignments[edge_set.source][source], assignments[edge_set.destination][destination]
        cut += int((ends[0] != ends[1]).sum())
        total += source.numel()
    return cut / max(total, 1)
