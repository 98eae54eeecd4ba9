"""What the rows of one input tensor stand for: nodes, edges, the graph itself, or nothing that is split.

A role is decided from dtype and shape alone, never from the tensor's name, and only when a single one fits.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.schema import PAIRS, Sizes

SPARSE_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Role(enum.Enum):
    """What a tensor's rows are. N nodes, E edges; an edge index has sources in row 0."""

    NODE = "node"
    """``[N, ...]``, any dtype: a rank holds the rows of its owned nodes."""
    EDGE = "edge"
    """``[E, ...]``, any dtype: a rank holds the rows of its own edges."""
    EDGE_INDEX = "edge_index"
    """int64 ``[2, E]``, edges that messages run along: a rank holds its own edges in local numbers."""
    PAIRS = PAIRS
    """int64 ``[2, L]``, pairs of nodes to be scored: as an edge index, with a halo of their own."""
    ADJACENCY = "adjacency"
    """``torch.sparse`` COO or CSR ``[N, N]``; row = destination, column = source, as ``sparse.mm`` has it."""
    INDEX = "index"
    """int64 ``[m]``, numbers of nodes (a split, seeds): a rank holds those of its own nodes, in local numbers."""
    REPLICATED = "replicated"
    """Any shape: the same on every rank."""

    @property
    def is_index(self) -> bool:
        """Whether the tensor holds the ends of edges, int64 ``[2, E]``."""
        return self in (Role.EDGE_INDEX, Role.PAIRS)


@dataclass(frozen=True)
class Member:
    """What a tensor's rows are, and of which set.

    Attributes:
        role: what they are.
        of: the node set or edge set; "" for the unnamed one.
        ends: the node sets that an edge index points into, where the user says so; that of an index, twice.
    """

    role: Role
    of: str = ""
    ends: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.role.value}:{self.of}" if self.of else self.role.value


GivenRole = Member | Role | str
"""How a user names a role: ``"node"``, ``"edge:edge_label_index"``, ``"edge_index:user->movie"``, ``"index:paper"``."""


def as_member(value: GivenRole, name: str) -> Member:
    """The :class:`Member` that a user named; ``name`` is the tensor's, for the message.

    Args:
        value: a role, or ``"role:set"`` with the name of a node set (``"node:paper"``) or of an edge set
            (``"edge:edge_label_index"``); for an edge index or pairs also ``"edge_index:source->destination"``; for
            an index the node set whose nodes it numbers, ``"index:paper"``.

    Raises:
        PartitionError: there is no such role.
    """
    if isinstance(value, Member):
        return value
    word, _, of = value.partition(":") if isinstance(value, str) else (value, "", "")
    try:
        role = Role(word)
    except ValueError:
        known = ", ".join(repr(role.value) for role in Role)
        raise PartitionError(f"the role {value!r} given for {name!r} is not one of {known}") from None
    source, arrow, destination = of.partition("->")
    if arrow and role.is_index:
        return Member(role, ends=(source.strip(), destination.strip()))
    if arrow or (of and role in (Role.ADJACENCY, Role.REPLICATED)):
        raise PartitionError(f"the role {value!r} given for {name!r}: {role.value!r} takes no {of!r}")
    return Member(role, ends=(of, of)) if role is Role.INDEX else Member(role, of)


def is_edge_index(value: Tensor) -> bool:
    """Whether the tensor has the dtype and shape of an edge index: strided int64 ``[2, E]``."""
    return (
        value.layout is torch.strided
        and value.dtype == torch.int64
        and value.dim() == 2
        and value.size(0) == 2
    )


def role_candidates(value: Tensor, sizes: Sizes) -> frozenset[Member]:
    """Every split role whose dtype and shape the tensor has; empty where only "replicated" is left.

    Args:
        value: any tensor; a sparse one that is no square adjacency has no candidate.
        sizes: of the sets that the tensor may belong to.
    """
    if value.layout in SPARSE_LAYOUTS:
        square = any(tuple(value.shape) == (n, n) for n in sizes.nodes.values())
        return frozenset({Member(Role.ADJACENCY)}) if square else frozenset()
    found = set()
    if is_edge_index(value):
        found.add(Member(Role.EDGE_INDEX if value.size(1) == sizes.edges.get("") else Role.PAIRS))
    if value.dim() > 0:
        found |= {Member(Role.NODE, name) for name, n in sizes.nodes.items() if value.size(0) == n}
        found |= {Member(Role.EDGE, name) for name, e in sizes.edges.items() if value.size(0) == e}
    return frozenset(found)


def infer_member(value: Tensor, sizes: Sizes, name: str) -> Member:
    """The one role that fits the tensor's dtype and shape; ``name`` is only for the message.

    Args:
        value: any tensor; 0-dim tensors and those that fit nothing are replicated.
        sizes: of the sets of the whole graph that the tensor may belong to.
        name: what the message calls the tensor.

    Raises:
        PartitionError: more than one role fits (say N == E), or it is a sparse tensor other than ``[N, N]``.
    """
    found = role_candidates(value, sizes)
    if len(found) > 1:
        fits = " or ".join(sorted(repr(str(member)) for member in found))
        choice = "|".join(sorted(f'"{member}"' for member in found))
        raise PartitionError(
            f"the role of {name!r} with shape {list(value.shape)} is ambiguous ({fits}: the graph has "
            f'{_counts(sizes)}): pass roles={{{name!r}: {choice}|"replicated"}}'
        )
    if not found and value.layout in SPARSE_LAYOUTS:
        raise PartitionError(
            f"{name!r} is a sparse tensor of shape {list(value.shape)}, but only the adjacency [N, N] of a "
            "homogeneous graph may be sparse: make it dense"
        )
    return next(iter(found), Member(Role.REPLICATED))


def _counts(sizes: Sizes) -> str:
    nodes = [f"{n} nodes" + (f" of {name!r}" if name else "") for name, n in sizes.nodes.items()]
    edges = [f"{e} edges" + (f" of {name!r}" if name else "") for name, e in sizes.edges.items()]
    return " and ".join([*nodes, *edges])
