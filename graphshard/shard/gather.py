"""All ranks' rows of a node set or an edge set, in the order of the whole graph, on every rank."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.ops.gather import gather_rows
from graphshard.ranks.groups import all_gather_numbers, all_gather_rows, default_group, group_size


@dataclass(frozen=True)
class RowSet:
    """The rows that one rank holds of a set of nodes or edges.

    Attributes:
        ids: int64 ``[n]``, the numbers of the rank's own in the whole graph.
        num_rows: N, how many the whole graph has.
        called: what a rank's own ones are called in messages.
    """

    ids: Tensor
    num_rows: int
    called: str


def group_of(group: dist.ProcessGroup | None, known: str | None, world_size: int) -> str:
    """The name of the group to gather over: the one given, that of the rows, or the default one.

    Raises:
        ShardError: it is not as large as there are shards.
    """
    name = str(group.group_name) if group is not None else default_group() if known is None else known
    size = group_size(name)
    if size != world_size:
        raise ShardError(f"gather needs the {world_size} ranks of these shards, this job has {size}")
    return name


def gather_all(rank: int, of: RowSet, rows: Tensor, name: str) -> Tensor:
    """See :meth:`graphshard.Shard.gather`."""
    _check_headers(all_gather_numbers(_header(rank, of, rows), rows.device, name), of.called)
    gathered: Tensor = gather_rows(rows, of.ids.to(rows.device), of.num_rows, name)
    return gathered


def in_order(ids: Tensor, rank: int, group: str) -> tuple[Tensor, int]:
    """Of rows that a mask kept, or that were joined: their order on one machine is that of all ranks' ids. Collective.

    Args:
        ids: int64 ``[n]``, this rank's, places in the whole. rank: this rank's number. group: the process group's name.

    Returns:
        int64 ``[n]``, the place of each among all that there are; and how many there are.
    """
    (parts,) = all_gather_rows([ids], group)
    order = torch.cat(parts).argsort()
    places = torch.empty_like(order)
    places[order] = torch.arange(order.numel(), device=order.device)
    first = sum(part.numel() for part in parts[:rank])
    return places[first : first + parts[rank].numel()], order.numel()


def _header(rank: int, of: RowSet, rows: Tensor) -> list[int]:
    """What the ranks must agree on before rows are exchanged."""
    count = rows.size(0) if rows.dim() > 0 else -1
    kind = zlib.crc32(f"{rows.dtype} {list(rows.shape[1:])}".encode())
    return [rank, of.ids.numel(), count, kind, of.num_rows, zlib.crc32(of.called.encode())]


def _check_headers(table: list[list[int]], called: str) -> None:
    """Every rank sees the same table, so that all raise or none does: no rank is left waiting."""
    for rank, owned, count, kind, num_rows, what in table:
        if what != table[0][5]:
            raise ShardError(f"gather is asked for other rows on rank {rank} than on rank {table[0][0]}")
        if count != owned:
            found = "a 0-dim tensor" if count < 0 else f"{count} rows"
            raise ShardError(
                f"gather takes one row for each of the {owned} {called} of rank {rank}, not {found}"
            )
        if kind != table[0][3]:
            raise ShardError(
                f"gather got another dtype or row shape on rank {rank} than on rank {table[0][0]}"
            )
        if num_rows != table[0][4]:
            raise ShardError(f"rank {rank} holds a shard of another graph than rank {table[0][0]}")
    if sorted(line[0] for line in table) != list(range(len(table))):
        raise ShardError(f"the ranks hold shards {[line[0] for line in table]}, some of them twice")
