"""All ranks' rows of a node set, in the order of the whole graph, on every rank."""

from __future__ import annotations

import zlib

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.ranks.groups import default_group, resolve
from graphshard.shard.parts import NodeShard


def gather_rows(
    rank: int, world_size: int, nodes: NodeShard, rows: Tensor, group: dist.ProcessGroup | None
) -> Tensor:
    """See :meth:`graphshard.Shard.gather`."""
    group = resolve(default_group()) if group is None else group
    size = 1 if group is None else group.size()
    if size != world_size:
        raise ShardError(f"gather needs the {world_size} ranks of these shards, this job has {size}")
    rows = rows.detach()
    owned = nodes.owned_ids.to(rows.device)
    header = torch.tensor(_header(rank, nodes, rows), dtype=torch.int64, device=rows.device)
    if size == 1:
        _check_headers([header.tolist()])
        return _place([owned], [rows], nodes.num_nodes)
    headers = [torch.empty_like(header) for _ in range(size)]
    dist.all_gather(headers, header, group=group)
    table = [one.tolist() for one in headers]
    _check_headers(table)
    counts = [line[1] for line in table]
    ids = _all_gather_rows(owned, counts, group)
    return _place(ids, _all_gather_rows(rows, counts, group), nodes.num_nodes)


def _header(rank: int, nodes: NodeShard, rows: Tensor) -> list[int]:
    """What the ranks must agree on before rows are exchanged."""
    count = rows.size(0) if rows.dim() > 0 else -1
    kind = zlib.crc32(f"{rows.dtype} {list(rows.shape[1:])}".encode())
    return [rank, nodes.num_owned, count, kind, nodes.num_nodes]


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
