"""Which tensors hold edges, between which nodes, and how many nodes there are: the sets of a graph.

A tensor that is an edge index by dtype and shape is one of: the graph itself, further edges that messages run
along (where the user says so), or pairs of nodes to be scored, with a halo of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.paths import EdgeType
from graphshard.graph.readers import RawGraph, edge_set_name
from graphshard.graph.roles import SPARSE_LAYOUTS, Member, Role, is_edge_index
from graphshard.graph.schema import MESSAGES, NUMBERS, PAIRS, EdgeSet, Schema

Members = dict[str, Member]


def find_edge_sets(raw: RawGraph, fixed: Members) -> tuple[list[EdgeSet], Members]:
    """The edge sets of a graph, and the members that hold them, ``fixed`` included.

    Raises:
        PartitionError: no tensor, or no single one, can be the graph; an index has another dtype or shape.
    """
    members = dict(fixed)
    if raw.edge_types:
        _typed_indices(raw, members)
    else:
        _find_graph(raw.tensors, members)
        _untyped_indices(raw, members)
    for name, member in members.items():
        if member.role.is_index and not is_edge_index(raw.tensors[name]):
            value = raw.tensors[name]
            raise PartitionError(
                f"edge index {name!r} must be int64 [2, E], not {value.dtype} {list(value.shape)}{_mend(value)}"
            )
    adjacent = any(member.role is Role.ADJACENCY for member in members.values())
    sets: dict[str, EdgeSet] = {"": EdgeSet()} if adjacent else {}
    for name, member in members.items():
        if member.role.is_index:
            plan = PAIRS if member.role is Role.PAIRS else MESSAGES
            source, destination = member.ends or _ends(raw, name)
            sets.setdefault(member.of, EdgeSet(member.of, source, destination, plan))
        elif member.role is Role.INDEX:
            members[name] = member if member.of else replace(member, of=name)
            source, destination = member.ends or ("", "")
            if raw.node_types and source not in raw.node_types:
                known = ", ".join(map(repr, raw.node_types))
                raise PartitionError(
                    f'{name!r} is an index of {source!r}, but the node types are {known}: pass "index:type"'
                )
            sets[name] = EdgeSet(members[name].of, source, destination, NUMBERS)
    return list(sets.values()), members


def _mend(value: Tensor) -> str:
    """What makes an edge index of a tensor that is none, where something does."""
    if value.layout is not torch.strided:
        return ": an adjacency goes under another name"
    turned = value.dim() == 2 and value.size(1) == 2 and value.size(0) != 2
    if (
        value.dim() != 2
        or not (turned or value.size(0) == 2)
        or value.is_complex()
        or value.dtype == torch.bool
    ):
        return ": row 0 has the source of each edge, row 1 its destination"
    steps = [".t().contiguous()"] * turned + [".long()"] * (value.dtype != torch.int64)
    return f": pass it as {''.join(steps)}"


def edge_type(raw: RawGraph, name: str) -> EdgeType | None:
    """The edge type under which a tensor stands."""
    key = raw.paths.get(name, ("", ""))[1]
    return key if isinstance(key, tuple) else None


def _ends(raw: RawGraph, name: str) -> tuple[str, str]:
    kind = edge_type(raw, name)
    return ("", "") if kind is None else (kind[0], kind[2])


def _typed_indices(raw: RawGraph, members: Members) -> None:
    """One edge index for each edge type; any other under it holds pairs."""
    for kind in raw.edge_types:
        below = [n for n in raw.tensors if edge_type(raw, n) == kind and is_edge_index(raw.tensors[n])]
        main = edge_set_name(kind)
        known = [n for n in below if n in members and members[n] == Member(Role.EDGE_INDEX, main)]
        given = [n for n in below if n in members and members[n] == Member(Role.EDGE_INDEX)]
        if not known and given:
            known = given[:1]
            members[given[0]] = Member(Role.EDGE_INDEX, main)
        free = [n for n in below if n not in members]
        if not known and len(free) == 1:
            members[free.pop()] = Member(Role.EDGE_INDEX, main)
        for name in free:
            if not known:
                raise PartitionError(
                    f"{', '.join(map(repr, free))} could each be the edge index of {kind}: pass "
                    f'roles={{{name!r}: "edge_index:{main}"}}'
                )
            members[name] = Member(Role.PAIRS)
        for name in below:
            if members[name].role.is_index and not members[name].of:
                members[name] = replace(members[name], of=f"{main}.{raw.paths[name][0]}")


def _find_graph(tensors: Mapping[str, Tensor], members: Members) -> None:
    """Add the one tensor that can be the graph, unless an edge index or adjacency is known."""
    for name, value in tensors.items():
        square = value.dim() == 2 and value.size(0) == value.size(1)
        if name not in members and value.layout in SPARSE_LAYOUTS and square:
            members[name] = Member(Role.ADJACENCY)
    if {Role.EDGE_INDEX, Role.ADJACENCY} & {member.role for member in members.values()}:
        return
    candidates = [name for name, value in tensors.items() if name not in members and is_edge_index(value)]
    if len(candidates) == 1:
        members[candidates[0]] = Member(Role.EDGE_INDEX)
        return
    if not candidates:
        raise PartitionError(
            "the data holds no graph: it needs an edge index (int64 [2, E]) or an adjacency "
            "(torch.sparse [N, N])"
        )
    names = ", ".join(repr(name) for name in candidates)
    raise PartitionError(
        f'{names} could each be the edge index: pass roles={{{candidates[0]!r}: "edge_index"}}'
    )


def _untyped_indices(raw: RawGraph, members: Members) -> None:
    """The first edge index is the graph; any other is a set of its own, unless it is the same one again."""
    main = next((n for n, m in members.items() if m.role is Role.EDGE_INDEX and not m.of), None)
    for name, value in raw.tensors.items():
        member = members.get(name)
        if member is None and is_edge_index(value) and not _other_rows(raw, members, name):
            member = Member(Role.PAIRS)
        if member is None or not member.role.is_index or member.of or name == main:
            continue
        if main is not None and member.ends is None and _same(value, raw.tensors[main], member):
            members[name] = members[main]
        else:
            members[name] = replace(member, of=name)


def _same(value: Tensor, main: Tensor, member: Member) -> bool:
    """Whether a second index is the graph again: the same memory, or equal where the user says so of both.

    Equal numbers alone say nothing: what is inferred must not depend on them.
    """
    if member.role is Role.PAIRS:
        return value.numel() > 0 and value.data_ptr() == main.data_ptr() and value.shape == main.shape
    return torch.equal(value, main)


def _other_rows(raw: RawGraph, members: Members, name: str) -> bool:
    """Whether an index could be two rows of nodes or edges as well: its role is then asked for."""
    counts = set(raw.num_nodes.values())
    counts |= {raw.tensors[n].size(1) for n, m in members.items() if m.role.is_index and n != name}
    return 2 in counts


def count_nodes(raw: RawGraph, members: Members, nodes: str, lowest: int, edge_counts: set[int]) -> int:
    """N of a node set whose data does not say it: the only leading dim that is long enough and no edge count.

    Args:
        raw: the data.
        members: the roles that are known.
        nodes: which node set.
        lowest: one more than the largest number of a node of this set in any edge.
        edge_counts: how many edges the sets of edges have.

    Raises:
        PartitionError: there is no such dim, or there are several.
    """
    of = f" of {nodes!r}" if nodes else ""
    for name, member in members.items():
        if member.role is Role.ADJACENCY and not nodes:
            return raw.tensors[name].size(0)
        if member == Member(Role.NODE, nodes) and raw.tensors[name].dim() > 0:
            return raw.tensors[name].size(0)
    below = [n for n in raw.tensors if not raw.node_types or raw.paths.get(n, ("", ""))[1] == nodes]
    named = nodes and not raw.node_types  # a set that only roles speak of
    rows = {raw.tensors[n].size(0) for n in below if n not in members and raw.tensors[n].dim() > 0}
    rows = set() if named else rows - (set() if raw.node_types else edge_counts)
    fitting = {size for size in rows if size >= lowest}
    if rows and not fitting:
        raise PartitionError(
            f"the edges name nodes{of} up to {lowest - 1}, but the tensors have {sorted(rows)} rows: an edge "
            "points past the nodes, or pass num_nodes="
        )
    if len(fitting) != 1:
        found = f"tensors have {sorted(fitting)} rows" if fitting else "no tensor has rows for nodes alone"
        edges = " and ".join(map(str, sorted(edge_counts)))
        raise PartitionError(
            f"the number of nodes{of} cannot be told from the data ({found}, there are {edges} edges): pass "
            "num_nodes= or roles="
        )
    return fitting.pop()


def schema_of(raw: RawGraph, members: Members, edge_sets: list[EdgeSet]) -> Schema:
    """All node sets that the data, its edges or its roles name."""
    names = [*raw.node_types, *filter(None, raw.num_nodes)]
    names += [end for e in edge_sets for end in (e.source, e.destination)]
    names += [m.of for m in members.values() if m.role is Role.NODE]
    return Schema(tuple(dict.fromkeys(names)), tuple(edge_sets))
