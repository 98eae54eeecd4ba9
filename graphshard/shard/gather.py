"""All ranks' rows of a node set or an edge set, in the order of the whole graph, on every rank."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.ops.gather import gather_rows
from graphshard.ranks.groups import all_gather_numbers, default_group, group_size


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


def gather_all(
    rank: int, world_size: int, of: RowSet, rows: Tensor, group: dist.ProcessGroup | None
) -> Tensor:
    """See :meth:`graphshard.Shard.gather`."""
    name = default_group() if group is None else str(group.group_name)
    size = group_size(name)
    if size != world_size:
        raise ShardError(f"gather needs the {world_size} ranks of these shards, this job has {size}")
    _check_headers(all_gather_numbers(_header(rank, of, rows), rows.device, name), of.called)
    gathered: Tensor = gather_rows(rows, of.ids.to(rows.device), of.num_rows, name)
    return gathered


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
