"""What the rows of one input tensor stand for: nodes, edges, the graph itself, or nothing that is split.

A role is decided from dtype and shape alone, never from the tensor's name, and only when a single one fits.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from graphshard.errors import PartitionError

SPARSE_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Role(enum.Enum):
    """What a tensor's rows are. N nodes, E edges; an edge index has sources in row 0."""

    NODE = "node"
    """``[N, ...]``, any dtype: a rank holds the rows of its owned nodes."""
    EDGE = "edge"
    """``[E, ...]``, any dtype: a rank holds the rows of its own edges."""
    EDGE_INDEX = "edge_index"
    """int64 ``[2, E]``: a rank holds its own edges in local numbers."""
    ADJACENCY = "adjacency"
    """``torch.sparse`` COO or CSR ``[N, N]``; row = destination, column = source, as ``sparse.mm`` has it."""
    REPLICATED = "replicated"
    """Any shape: the same on every rank."""


def as_role(value: Role | str, name: str) -> Role:
    """The :class:`Role` that a user named; ``name`` is the tensor's, for the message.

    Raises:
        PartitionError: there is no such role.
    """
    try:
        return Role(value)
    except ValueError:
        known = ", ".join(repr(role.value) for role in Role)
        raise PartitionError(f"the role {value!r} given for {name!r} is not one of {known}") from None


def is_edge_index(value: Tensor) -> bool:
    """Whether the tensor has the dtype and shape of an edge index: strided int64 ``[2, E]``."""
    return (
        value.layout is torch.strided
        and value.dtype == torch.int64
        and value.dim() == 2
        and value.size(0) == 2
    )


def role_candidates(value: Tensor, num_nodes: int, num_edges: int) -> frozenset[Role]:
    """Every split role whose dtype and shape the tensor has; empty where only "replicated" is left.

    Raises:
        Nothing: a sparse tensor that is no ``[N, N]`` adjacency has no candidate.
    """
    if value.layout in SPARSE_LAYOUTS:
        square = tuple(value.shape) == (num_nodes, num_nodes)
        return frozenset({Role.ADJACENCY}) if square else frozenset()
    found = set()
    if is_edge_index(value) and value.size(1) == num_edges:
        found.add(Role.EDGE_INDEX)
    if value.dim() > 0 and value.size(0) == num_nodes:
        found.add(Role.NODE)
    if value.dim() > 0 and value.size(0) == num_edges:
        found.add(Role.EDGE)
    return frozenset(found)


def infer_role(value: Tensor, num_nodes: int, num_edges: int, name: str) -> Role:
    """The one role that fits the tensor's dtype and shape; ``name`` is only for the message.

    Args:
        value: any tensor; 0-dim tensors and those that fit nothing are replicated.
        num_nodes: N of the whole graph.
        num_edges: E of the whole graph.
        name: what the message calls the tensor.

    Raises:
        PartitionError: more than one role fits (say N == E), or it is a sparse tensor other than ``[N, N]``.
    """
    found = role_candidates(value, num_nodes, num_edges)
    if len(found) > 1:
        fits = " or ".join(sorted(repr(role.value) for role in found))
        raise PartitionError(
            f"the role of {name!r} with shape {list(value.shape)} is ambiguous ({fits}: the graph has "
            f"{num_nodes} nodes and {num_edges} edges): pass roles={{{name!r}: "
            '"node"|"edge"|"edge_index"|"adjacency"|"replicated"}'
        )
    if not found and value.layout in SPARSE_LAYOUTS:
        raise PartitionError(
            f"{name!r} is a sparse tensor of shape {list(value.shape)}, but only an adjacency "
            f"[{num_nodes}, {num_nodes}] may be sparse: make it dense"
        )
    return next(iter(found), Role.REPLICATED)
