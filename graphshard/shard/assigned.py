"""``shard.x = new``: what the new tensor's rows are, or why they are none of this shard's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.graph.roles import Member, Role, as_member, role_candidates
from graphshard.graph.schema import Sizes

_EDGES = "edges, along which the shards were cut"


def member_for(
    called: str, value: Tensor, own: Sizes, *, known: Member | None, marked: Member | None, role: str | None
) -> Member:
    """The role of a tensor that is put into a shard.

    Args:
        called: what messages call it: ``shard.x``.
        value: the tensor.
        own: how many rows of each set this rank has.
        known: the role of the tensor that it replaces, if there is one.
        marked: its role as a tensor of this shard, if it is one already.
        role: what the user says it is.

    Raises:
        ShardError: it does not fit.
    """
    wanted = known if role is None else as_member(role, called)
    if marked is not None and wanted is not None and marked != wanted:
        raise ShardError(
            f"{called} is a {wanted} tensor, but what is assigned is a {marked} tensor of the shard"
        )
    member = marked or wanted or _inferred(called, value, own)
    if member.role.is_index or member.role in (Role.ADJACENCY, Role.INDEX):
        if marked is None:
            held = "numbers of nodes, which partition() cut" if member.role is Role.INDEX else _EDGES
            raise ShardError(f"{called} holds {held}: change them in the data before partition()")
        return member
    _check(called, value, own, member)
    return member


def _check(called: str, value: Tensor, own: Sizes, member: Member) -> None:
    counts = _counts(own, member)
    if counts is None:
        return
    if member.of not in counts:
        raise ShardError(
            f"{called} is given the role {str(member)!r}; this shard has {', '.join(map(repr, counts))}"
        )
    rows = counts[member.of]
    if value.layout is not torch.strided or value.dim() == 0 or value.size(0) != rows:
        raise ShardError(
            f"{called} takes one row for each of this rank's {rows} {_rows_of(member)}, not a tensor of shape "
            f"{list(value.shape)}; shard.scatter(whole, {str(member)!r}) cuts a tensor with the rows of all ranks"
        )


def _inferred(called: str, value: Tensor, own: Sizes) -> Member:
    found = [m for m in role_candidates(value, own) if _counts(own, m) is not None]
    if value.layout is torch.strided and len(found) == 1:
        return found[0]
    counts = [f"{n} {_rows_of(Member(Role.NODE, name))}" for name, n in own.nodes.items()]
    counts += [f"{n} {_rows_of(Member(Role.EDGE, name))}" for name, n in own.edges.items()]
    if found:
        fits = " or ".join(sorted(repr(str(member)) for member in found))
        raise ShardError(
            f"{called} of shape {list(value.shape)} could be {fits} rows: say which, shard.put(name, tensor, role=...)"
        )
    raise ShardError(
        f"{called} of shape {list(value.shape)} is not rows of this shard, which has {' and '.join(counts)}: "
        f'shard.scatter(whole, role) cuts the rows of all ranks, shard.put(name, tensor, role="replicated") keeps '
        f"what every rank holds alike; edges and numbers of nodes are cut by partition()"
    )


def _counts(own: Sizes, member: Member) -> Mapping[str, int] | None:
    return {Role.NODE: own.nodes, Role.EDGE: own.edges}.get(member.role)


def _rows_of(member: Member) -> str:
    kind = "nodes" if member.role is Role.NODE else "edges"
    return f"{kind} of {member.of!r}" if member.of else kind
