"""Whether a graph's tensors fit their roles and each other: each check is one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.paths import Path
from graphshard.graph.readers import RawGraph
from graphshard.graph.roles import SPARSE_LAYOUTS, Member, Role
from graphshard.graph.schema import Schema, Sizes

_NODE_ATTRIBUTES, _EDGE_ATTRIBUTES = ("x", "pos"), ("edge_attr", "edge_weight")
"""What PyG documents as a matrix with a row for each node, or each edge, of a ``Data``."""
_AT_ONCE = 1 << 22  # edges that are looked at together


@dataclass(frozen=True, eq=False)
class Found:
    """A graph whose roles are decided.

    Attributes:
        tensors, members, schema, sizes: of it.
        edges: the edge index of a set, by its name.
        raw: as it was read.
        given: names whose role the user gave.
    """

    tensors: Mapping[str, Tensor]
    members: Mapping[str, Member]
    schema: Schema
    sizes: Sizes
    edges: Callable[[str], Tensor]
    raw: RawGraph
    given: frozenset[str]

    def of_type(self, name: str) -> Sizes:
        """The node sets that a tensor may have rows of, by the type that it stands under."""
        below = self.raw.paths.get(name, ("", ""))[1]
        return Sizes(
            {n: count for n, count in self.sizes.nodes.items() if below in ("", n)}, self.sizes.edges
        )


def sorted_unique(values: Tensor) -> Tensor:
    """``values.unique()``, which torch leaves without types."""
    result: Tensor = values.unique()  # type: ignore[no-untyped-call]
    return result


def largest_of(numbers: Tensor) -> int:
    """The largest of at least one number, found in pieces: torch copies what does not lie in a row."""
    return max(int(some.max()) for some in numbers.split(_AT_ONCE))  # type: ignore[no-untyped-call]


def check_nodes(sizes: Sizes) -> None:
    """There is a node, and counts are whole numbers.

    Raises:
        PartitionError: there is none.
    """
    for name, count in sizes.nodes.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            of = f" of {name!r}" if name else ""
            raise PartitionError(f"the number of nodes{of} must be an int, at least 0, not {count!r}")
    if sum(sizes.nodes.values()) < 1:
        raise PartitionError("a graph of 0 nodes cannot be partitioned: the data has no node")


def check_graph(found: Found) -> None:
    """Every tensor fits its role, and none looks like rows whose number is wrong.

    Raises:
        PartitionError: something does not fit.
    """
    for name, member in found.members.items():
        _check_member(found, name, member)
    for name in found.tensors:
        if name not in found.given:
            _check_documented(found, name)
            _check_count(found, name)


def _check_member(found: Found, name: str, member: Member) -> None:
    value, sizes = found.tensors[name], found.sizes
    if member.role.is_index:
        edge_set = found.schema.edge_set(member.of)
        ends = edge_set.source, edge_set.destination
        check_edge_index(value, (sizes.nodes[ends[0]], sizes.nodes[ends[1]]), ends, name, member.role)
        if not torch.equal(value, found.edges(member.of)):
            raise PartitionError(
                f"{name!r} holds another graph than the first edge index of {member.of!r}: name another set"
            )
    elif member.role is Role.INDEX:
        _check_numbers(value, found.schema.edge_set(member.of).source, sizes, name)
    elif member.role is Role.ADJACENCY:
        if not found.schema.homogeneous:
            raise PartitionError(f"adjacency {name!r} of a heterogeneous graph: pass an edge_index instead")
        _check_adjacency(value, found.edges(""), sum(sizes.nodes.values()), name)
    elif member.role in (Role.NODE, Role.EDGE):
        _check_rows(value, member, sizes, name)


def _check_documented(found: Found, name: str) -> None:
    """``x`` of a PyG ``Data`` has a row for each node, ``edge_attr`` one for each edge."""
    path = found.raw.paths.get(name, (name,))
    attribute = str(path[0]).removesuffix("_dict") if len(path) > 1 else path[0]
    member = found.members[name]
    if not found.raw.labels_by_name or member.role is not Role.REPLICATED or not found.tensors[name].dim():
        return
    for known, rows, what in (
        (_NODE_ATTRIBUTES, found.of_type(name).nodes, "nodes"),
        (_EDGE_ATTRIBUTES, _edges_of(found, path), "edges"),
    ):
        if attribute in known and rows:
            raise PartitionError(
                f"{name!r} has {found.tensors[name].size(0)} rows, but the graph has "
                f"{' or '.join(map(str, rows.values()))} {what}: give it a row for each, correct num_nodes, or pass "
                f'roles={{{name!r}: "replicated"}} if its rows are no {what}'
            )


def _edges_of(found: Found, path: Path) -> dict[str, int]:
    key = path[1] if len(path) > 1 else None
    wanted = "__".join(key) if isinstance(key, tuple) else ""
    return {n: count for n, count in found.sizes.edges.items() if n == wanted}


def _check_count(found: Found, name: str) -> None:
    """A number of nodes that was stated, and that no tensor has, while one has enough rows for every edge."""
    value, sizes = found.tensors[name], found.of_type(name)
    if found.members[name].role is not Role.REPLICATED or value.dim() == 0:
        return
    rows = value.size(0)
    for of, count in sizes.nodes.items():
        with_rows = any(m == Member(Role.NODE, of) for m in found.members.values())
        lowest = _lowest(found, of)
        if 0 < lowest <= rows and (rows < count or not with_rows) and rows not in sizes.edges.values():
            named = f" of {of!r}" if of else ""
            raise PartitionError(
                f"{name!r} has {rows} rows, but the graph has {count} nodes{named}, as num_nodes or the other tensors "
                f'say: correct num_nodes, or pass roles={{{name!r}: "replicated"}} if its rows are no nodes'
            )


def _lowest(found: Found, nodes: str) -> int:
    """One more than the largest number of a node of this set in any edge."""
    ends = [
        found.edges(e.name)[row]
        for e in found.schema.messages
        for row, end in enumerate((e.source, e.destination))
        if end == nodes
    ]
    return max((largest_of(numbers) + 1 for numbers in ends if numbers.numel()), default=0)


def _check_numbers(value: Tensor, nodes: str, sizes: Sizes, name: str) -> None:
    """An index is one row of numbers of nodes."""
    if nodes not in sizes.nodes:
        known = ", ".join(repr(n) for n in sizes.nodes)
        raise PartitionError(f"{name!r} is an index of {nodes!r}, but there are only the node sets {known}")
    if value.layout is not torch.strided or value.dtype != torch.int64 or value.dim() != 1:
        raise PartitionError(
            f"the index {name!r} must be int64 [m], not {value.dtype} {list(value.shape)}: convert it with .long(), "
            "and make a tensor of each of several rows"
        )
    count, of = sizes.nodes[nodes], f" of {nodes!r}" if nodes else ""
    outside = ((value < 0) | (value >= count)).nonzero()
    if outside.numel():
        place = int(outside[0])
        raise PartitionError(
            f"{name}[{place}] is {int(value[place])}, but the graph has {count} nodes{of} (0..{count - 1}): leave it "
            f'out, or pass roles={{{name!r}: "replicated"}} if it holds no numbers of nodes'
        )


def check_no_numbers(found: Found) -> None:
    """No tensor that only its shape makes replicated can hold numbers of nodes: as an index it is cut.

    Numbers of edges (triplets) stay whole on every rank, where they number the edges of the whole graph.

    Raises:
        PartitionError: one can; it asks for the role.
    """
    for name, value in found.tensors.items():
        if found.members[name].role is Role.REPLICATED and name not in found.given:
            _check_no_numbers(found, name, value)


def _check_no_numbers(found: Found, name: str, value: Tensor) -> None:
    whole = value.dtype in (torch.int64, torch.int32) and value.layout is torch.strided
    if not whole or value.dim() == 0 or value.numel() == 0:
        return
    low, high = (int(bound) for bound in value.aminmax())
    sets = [n for n, count in found.of_type(name).nodes.items() if low >= 0 and high < count]
    if not sets:
        return
    what = f"{name!r} ({str(value.dtype).removeprefix('torch.')} {list(value.shape)}, values {low}..{high})"
    roles = " or ".join(f'"index:{n}"' if n else '"index"' for n in sets)
    rows = "" if value.dim() == 1 else ", each row as a tensor of its own"
    raise PartitionError(
        f"{what} may hold numbers of nodes, as a split or seeds do: pass roles={{{name!r}: {roles}}}{rows}, and each "
        f'rank gets those of its own nodes in its own numbers; or roles={{{name!r}: "replicated"}} if every rank is to '
        "hold it whole, as the numbers of the whole graph or as something else"
    )


def _check_rows(value: Tensor, member: Member, sizes: Sizes, name: str) -> None:
    known = sizes.nodes if member.role is Role.NODE else sizes.edges
    if member.of not in known:
        sets = ", ".join(repr(n) for n in known)
        raise PartitionError(f"{name!r} has role {str(member)!r}, but there are only the sets {sets}")
    rows = known[member.of]
    if value.layout in SPARSE_LAYOUTS or value.dim() == 0 or value.size(0) != rows:
        raise PartitionError(
            f"{name!r} has role {str(member)!r}, so it must be dense with {rows} rows, but its shape is "
            f"{list(value.shape)}"
        )


def check_edge_index(
    value: Tensor, counts: tuple[int, int], ends: tuple[str, str], name: str, role: Role = Role.EDGE_INDEX
) -> None:
    """Both rows number nodes that there are.

    Raises:
        PartitionError: one does not; it names the first edge that has such an end.
    """
    limits = torch.tensor(counts, device=value.device).unsqueeze(1)
    for first in range(0, value.size(1), _AT_ONCE):
        some = value[:, first : first + _AT_ONCE]
        outside = ((some < 0) | (some >= limits)).t().nonzero()
        if outside.numel() > 0:
            edge, row = outside[0].tolist()
            of = f" of {ends[row]!r}" if ends[row] else ""
            raise PartitionError(
                f"{name}[{row}, {first + edge}] is {int(some[row, edge])}, but the graph has {counts[row]} nodes{of} "
                f"(0..{counts[row] - 1}): {_way_out(name, role)}"
            )


def _way_out(name: str, role: Role) -> str:
    if role is Role.PAIRS:
        return f'if it holds no numbers of nodes, pass roles={{{name!r}: "replicated"}}'
    return "take the edge out, or give every tensor of nodes, and num_nodes=, as many rows as there are nodes"


def _check_adjacency(value: Tensor, edges: Tensor, num_nodes: int, name: str) -> None:
    if tuple(value.shape) != (num_nodes, num_nodes):
        raise PartitionError(
            f"adjacency {name!r} has shape {list(value.shape)}, but the graph has {num_nodes} nodes"
        )
    pattern = value.indices()
    check_edge_index(pattern, (num_nodes, num_nodes), ("", ""), f"{name}.indices()")
    keys = sorted_unique(edges[1] * num_nodes + edges[0])
    if not torch.equal(keys, pattern[0] * num_nodes + pattern[1]):
        raise PartitionError(
            f"adjacency {name!r} and the data's other graph have different edges: keep one of them"
        )
