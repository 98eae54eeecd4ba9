"""What a tensor is that a call is given and that carries no mark of the shard: decided by all ranks together.

A tensor with as many rows as each rank has nodes may be rows, or one value that every rank holds and that has this
size by chance::

    rank 0 has 5 nodes, rank 1 has 4   [5] and [4]            rows: one value has one shape
    both have 4                        [4] and [4], unequal   rows: one value is equal everywhere
    both have 4                        [4] and [4], equal     refused: the user has to say
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import RuntimeMismatch
from graphshard.graph.roles import Member, Role, role_candidates
from graphshard.ranks.checksums import checksum, digest_of
from graphshard.ranks.groups import all_gather_numbers, all_gather_object
from graphshard.shard.shard import Shard

Agreed = dict[Any, tuple[Member, ...]]
"""What was decided before, by partition and the names, dtypes and shapes of all ranks."""

_HERE = -1
"""Opens the numbers that ranks with unmarked tensors exchange; those of an agreement on a call are not negative."""


@dataclass(frozen=True)
class _Seen:
    """What one rank says of a tensor."""

    candidates: frozenset[Member]
    shape: tuple[int, ...]
    content: tuple[int, ...]


def decide(
    unknown: Mapping[str, Tensor], fits: Mapping[str, Member], shard: Shard, group: str, agreed: Agreed
) -> dict[str, Member]:
    """The role of each tensor, the same on every rank. Collective.

    Args:
        unknown: argument -> tensor, not empty.
        fits: the one role that some of them can have.
        shard: this rank's.
        group: the process group's name.
        agreed: decisions of before; added to.

    Raises:
        RuntimeMismatch: on every rank: the ranks see different things, or more than one fits.
    """
    about = repr([(name, t.dtype, list(t.shape), fits.get(name)) for name, t in unknown.items()])
    device, own = next(iter(unknown.values())).device, int(digest_of([(about, torch.empty(0))])[:15], 16)
    everyone = all_gather_numbers([_HERE, own, len(unknown), shard.rank], device, group)
    check_all(everyone, list(unknown), group)
    # What every rank has: the same key on all ranks, so that either all of them know it or none does.
    key = (shard.partition_id, tuple(numbers[1] for numbers in everyone))
    if key not in agreed:
        mine = [(name, _seen(t, fits.get(name), shard)) for name, t in unknown.items()]
        agreed[key] = _compare(all_gather_object(mine, group))
    return dict(zip(unknown, agreed[key], strict=True))


def check_all(everyone: Sequence[Sequence[int]], mine: list[str], group: str) -> None:
    """Either every rank has an unmarked tensor or none does. Collective where they differ.

    Args:
        everyone: the numbers that ranks exchanged first in this call.
        mine: this rank's unmarked tensors.
        group: the process group's name.

    Raises:
        RuntimeMismatch: on every rank, with the same sentence.
    """
    here = [numbers[0] == _HERE for numbers in everyone]
    if all(here) or not any(here):
        return
    names = all_gather_object(mine, group)
    rank = here.index(True)
    raise RuntimeMismatch(
        f"rank {rank} passes {', '.join(map(repr, names[rank]))}, no tensor of the shard, where rank "
        f"{here.index(False)} passes the shard's own: every rank must pass the same kind of tensor, "
        f"shard.scatter(whole, role) makes one of the shard"
    )


def _seen(tensor: Tensor, fits: Member | None, shard: Shard) -> _Seen:
    found = role_candidates(tensor, shard.own_sizes)
    rows = (
        frozenset(m for m in found if m.role in (Role.NODE, Role.EDGE)) if fits is None else frozenset({fits})
    )
    return _Seen(rows, tuple(tensor.shape), tuple(checksum(tensor).tolist()) if rows else ())


def _compare(everyone: list[list[tuple[str, _Seen]]]) -> tuple[Member, ...]:
    names = [[name for name, _ in mine] for mine in everyone]
    if any(other != names[0] for other in names):
        raise RuntimeMismatch(f"the ranks pass other arguments that are no tensors of the shard: {names}")
    return tuple(_role_of(name, [mine[i][1] for mine in everyone]) for i, name in enumerate(names[0]))


def _role_of(name: str, ranks: list[_Seen]) -> Member:
    """What all ranks can take it for.

    Raises:
        RuntimeMismatch: nothing, or more than one thing.
    """
    fitting = frozenset.intersection(*(seen.candidates for seen in ranks))
    one_shape = len({seen.shape for seen in ranks}) == 1
    if len(fitting) == 1:
        member = next(iter(fitting))
        if len(ranks) > 1 and one_shape and len({seen.content for seen in ranks}) == 1:
            rows = ranks[0].shape[0]
            raise RuntimeMismatch(
                f"argument {name!r} is no tensor of the shard and the same on every rank, and every rank happens to "
                f"have {rows} rows of {str(member)!r}: it may be such rows, or one value that all ranks hold; say "
                f'which with distribute(model, roles={{{name!r}: "replicated"}}) or roles={{{name!r}: "{member}"}}'
            )
        return member
    if not fitting and one_shape:
        return Member(Role.REPLICATED)
    fits = " or ".join(sorted(map(str, fitting))) or "nothing on all ranks"
    raise RuntimeMismatch(
        f"argument {name!r} is no tensor of the shard, and by dtype and shape it fits {fits}; say "
        f"which with distribute(model, roles={{{name!r}: ...}})"
    )
