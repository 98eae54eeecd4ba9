"""The partition methods by name, and which one ``"auto"`` takes. A new one is a file here and a line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from graphshard.partitioning import coordinates, hypergraph, metis, metis_volume, multilevel
from graphshard.partitioning.compiled import loops
from graphshard.partitioning.problem import Problem

METHODS: Mapping[str, Callable[[Problem], Tensor]] = {
    "metis": metis.assign,
    "metis-volume": metis_volume.assign,
    "multilevel": multilevel.assign,
    "rcb": coordinates.assign,
    "mtkahypar": hypergraph.assign,
}
"""Each gives the part of every node, int64 ``[N]``."""

AUTO = "auto"

_MOST_EDGES = 10_000_000
_MOST_NEEDS = 1 << 28


def choose(problem: Problem) -> tuple[str, str]:
    """The name of the method for a graph of this size, and why in a sentence."""
    edges, needs = problem.num_edges, problem.num_nodes * problem.num_parts
    if loops() is None:
        return "metis", "numba, which the others need, is not there"
    if edges > _MOST_EDGES:
        return (
            "multilevel",
            f"{edges} edges are more than {_MOST_EDGES}, where METIS takes much memory and time",
        )
    if needs > _MOST_NEEDS:
        return (
            "multilevel",
            f"{problem.num_nodes} nodes in {problem.num_parts} parts are too many to refine halo rows",
        )
    return "metis-volume", f"{edges} edges are few enough to refine halo rows"
