"""Lowered aggregations: a table of rows in, rows out, along the structure of a set of edges.

In all of these the rows must be those of the structure: the edges are a rank's own, every one of them.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.record import Faults, Op, Ops, Traffic, Trait
from graphshard.ir.placement import Halo, Matrix, Owned, Placed, Placement, Plan, Rows, Sorted, reach
from graphshard.ops import aggregation, broken, overlap, preaggregation, rooted, streamed


def edge_structure(call: Call) -> Placement:
    """``edge_structure(row, column, rows, columns)``: node numbers of two ends, and how many there are of each."""
    ends = [call.tensor("row"), call.tensor("column")]
    edges = same_rows(call, ends, [0, 0])
    if edges is None or any(end.dims != (edges,) for end in ends):
        call.refuse("takes ends of edges that are not spread over the ranks")
    sizes = [call.rows_of_size(call[name])[0] for name in ("rows", "columns")]
    rows, columns = (_checked(call, end, size, edges) for end, size in zip(ends, sizes, strict=True))
    return Matrix(rows, columns, edges)


def _checked(call: Call, end: Placed, size: Rows | None, edges: Rows) -> Rows:
    """The rows that an end of the edges numbers."""
    points = reach(end.points)
    if points is None and size == (
        edges.rows if isinstance(edges, Sorted) else edges
    ):  # each edge's own number
        return edges
    if points is None or not isinstance(size, (Owned, Halo)) or not points.fits(size):
        call.refuse(f"takes {end} as numbers of the rows {size}")
    return size


def edge_numbers(call: Call) -> Placement:
    """A number for each edge."""
    return Placed(call.tensor("index").dims)


def edge_order(call: Call) -> Placement:
    """The edges by row; what it numbers are edges, and only ``sort_edges`` reads it."""
    return Placed(call.tensor("row").dims)


def sort_edges(call: Call) -> Placement:
    """The same edges, renumbered: rows of their own, so that they meet no value in the old order."""
    placed, order = call.tensor("values"), call["order"]
    rows = placed.dims[0]
    if rows is None or call.tensor(order).dims != (rows,):
        call.refuse("sorts values by the order of other edges")
    return replace(placed, dims=(Sorted(rows, order.name), *placed.dims[1:]))


def edge_counts(call: Call) -> Placement:
    """A count for each row: all of its edges are this rank's own where the row is."""
    matrix = matrix_of(call, "structure")
    if not isinstance(matrix.rows, Owned):
        call.refuse("counts edges by source node, some of which are on other ranks")
    return Placed((matrix.rows, *(None,) * (call["ndim"] - 1)))


def row_weights(call: Call) -> Placement:
    """Weights of edges times what belongs to their rows."""
    matrix = matrix_of(call, "structure")
    _check(call, "scale", matrix.rows)
    if call["weight"] is None:
        return Placed((matrix.edges,))
    return _check(call, "weight", matrix.edges).plain()


def matrix_of(call: Call, name: str) -> Matrix:
    """The placement of a structure argument."""
    found = call.raw(call[name])
    if not isinstance(found, Matrix):
        call.refuse("takes something else as the structure of edges")
    return found


def _reduced(matrix: Matrix, rest: tuple[Rows | None, ...]) -> Placed:
    """What a sum over the edges makes: terms of each copy of a node where the rows have copies."""
    mirror = "sum" if isinstance(matrix.rows, Halo) else None
    return Placed((matrix.rows, *rest), mirror=mirror)


def _check(call: Call, name: str, wanted: Rows) -> Placed:
    placed = call.values(call[name])
    if placed.dims[:1] != (wanted,) or any(rows is not None for rows in placed.dims[1:]):
        call.refuse(f"reads {placed} along edges whose ends number the rows {wanted}")
    return placed


def weighted_sum(call: Call) -> Placement:
    """Table rows, weighted and summed by row."""
    matrix = matrix_of(call, "structure")
    table = _check(call, "x", matrix.columns)
    if call["weight"] is not None:
        _check(call, "weight", matrix.edges)
    return _reduced(matrix, table.dims[1:])


def split_structure(call: Call) -> Placement:
    """The same edges in two parts."""
    matrix = matrix_of(call, "structure")
    rows, _ = call.rows_of_size(call["owned"])
    if not isinstance(matrix.columns, Halo) or rows != Owned(matrix.columns.nodes):
        call.refuse("cuts a structure elsewhere than between owned and halo nodes")
    return matrix


def preaggregated(call: Call) -> Placement:
    """The same edges, some of which the ranks of their sources take in."""
    matrix = matrix_of(call, "structure")
    _check_plan(call, matrix)
    if call["weight"] is not None:
        _check(call, "weight", matrix.edges)
    return matrix


def overlapped_sum(call: Call) -> Placement:
    """A weighted sum over owned rows and the halo rows that it fetches itself."""
    return _fetching_sum(call, matrix_of(call, "parts"))


def streamed_sum(call: Call) -> Placement:
    """A weighted sum over owned rows and the halo rows that it fetches block by block."""
    return _fetching_sum(call, matrix_of(call, "structure"))


def rooted_sum(call: Call) -> Placement:
    """A streamed sum and own rows, each times a matrix that every rank holds."""
    placed = _fetching_sum(call, matrix_of(call, "structure"))
    call.check_whole("neighbour", "root", "bias")
    return placed


def _rows_of_rooted_sum(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Rows of x travel, or those of the result; gradients of the result travel back."""
    x, sum_first = node.args[0], node.args[-1]
    assert isinstance(x, fx.Node)
    return (x if sum_first else node), node


def _fetching_sum(call: Call, matrix: Matrix) -> Placement:
    _check_plan(call, matrix)
    assert isinstance(matrix.columns, Halo)
    table = _check(call, "x", Owned(matrix.columns.nodes))
    if call["weight"] is not None:
        _check(call, "weight", matrix.edges)
    if call.args.get("scale") is not None:
        _check(call, "scale", matrix.rows)
    return _reduced(matrix, table.dims[1:])


def _check_plan(call: Call, matrix: Matrix) -> None:
    plans = {p.halo for n in call.node.all_input_nodes if isinstance(p := call.raw(n), Plan)}
    if plans != {matrix.columns}:
        call.refuse("sends other rows than its edges read")


def dots(call: Call) -> Placement:
    """A number for each edge and head."""
    matrix = matrix_of(call, "structure")
    _check(call, "rows", matrix.rows)
    _check(call, "table", matrix.columns)
    return Placed((matrix.edges, None))


def gather(call: Call) -> Placement:
    """The row at one end of each edge."""
    matrix = matrix_of(call, "structure")
    table = _check(call, "x", matrix.rows if call["end"] == "row" else matrix.columns)
    return Placed((matrix.edges, *table.dims[1:]))


def segment_sum(call: Call) -> Placement:
    """Messages summed by row."""
    matrix = matrix_of(call, "structure")
    return _reduced(matrix, _check(call, "values", matrix.edges).dims[1:])


def edge_softmax(call: Call) -> Placement:
    """Shares of each edge among those of its row: all of them are this rank's own where the row is."""
    matrix = matrix_of(call, "structure")
    if not isinstance(matrix.rows, Owned):
        call.refuse("normalises over edges by source node, some of which are on other ranks")
    return _check(call, "scores", matrix.edges).plain()


def edge_extreme(call: Call) -> Placement:
    """The extreme over the edges of each row."""
    matrix = matrix_of(call, "structure")
    if not isinstance(matrix.rows, Owned):
        call.refuse("takes an extreme over edges by source node, some of which are on other ranks")
    return Placed((matrix.rows, *_check(call, "x", matrix.columns).dims[1:]))


OPS: Ops = {
    aggregation.edge_structure: edge_structure,
    aggregation.edge_numbers: edge_numbers,
    aggregation.row_weights: row_weights,
    aggregation.edge_order: edge_order,
    aggregation.sort_edges: sort_edges,
    aggregation.edge_counts: edge_counts,
    aggregation.weighted_sum: weighted_sum,
    overlap.split_structure: split_structure,
    preaggregation.preaggregation: Op(preaggregated, faults=Faults(broken.preaggregation_of_first_terms)),
    overlap.overlapped_sum: Op(
        overlapped_sum,
        traffic=Traffic("halo_sync", "overlapped sum"),
        faults=Faults(broken.overlap_nothing, broken.overlap_forward_only),
    ),
    streamed.streamed_sum: Op(
        streamed_sum,
        Trait.FRESH,
        traffic=Traffic("halo_sync", "streamed sum"),
        faults=Faults(broken.stream_nothing, broken.stream_forward_only),
    ),
    rooted.rooted_sum: Op(
        rooted_sum,
        Trait.FRESH | Trait.PRODUCT,
        traffic=Traffic("halo_sync", "rooted sum", _rows_of_rooted_sum),
        faults=Faults(broken.rooted_nothing, broken.rooted_forward_only),
    ),
    aggregation.dots: dots,
    aggregation.gather: gather,
    aggregation.segment_sum: segment_sum,
    aggregation.edge_softmax: edge_softmax,
    aggregation.edge_extreme: edge_extreme,
}
