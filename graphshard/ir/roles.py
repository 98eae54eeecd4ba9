"""The placement of a tensor by its role in the graph."""

from __future__ import annotations

from graphshard.graph.roles import Role
from graphshard.graph.schema import Schema
from graphshard.ir.placement import Edges, Owned, Placed, Points, Rows


def by_role(role: Role, of: str, trailing: int, schema: Schema) -> list[Placed]:
    """What a rank holds of a tensor of this role: one placement, of an adjacency that of its index and its values.

    Args:
        role: of the tensor. of: the node set or edge set of its rows.
        trailing: how many dims it has besides its rows; all of them where it has no rows.
        schema: of the graph.
    """
    rest: tuple[Rows | None, ...] = (None,) * trailing
    if role is Role.NODE:
        return [Placed((Owned(of), *rest))]
    if role is Role.REPLICATED:
        return [Placed(rest)]
    rows, edge_set = Edges(of), schema.edge_set(of)
    if role is Role.EDGE:
        return [Placed((rows, *rest))]
    if role is Role.INDEX:
        return [Placed((rows,), points=Points(edge_set.source))]
    source, destination = Points(edge_set.source, edge_set.plan), Points(edge_set.destination)
    if role is Role.ADJACENCY:
        return [Placed((None, rows), points=(destination, source)), Placed((rows,))]
    return [Placed((None, rows), points=(source, destination))]
