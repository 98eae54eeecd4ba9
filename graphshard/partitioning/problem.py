"""What every partition method is asked, and what it may read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphshard.partitioning.adjacency import Ends

IMBALANCE = 1.03
"""How much heavier than the mean a part may be, for the methods that refine: METIS' own bound."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A graph whose nodes are to be given to parts; the node sets of a heterogeneous one are numbered together.

    Attributes:
        edges: of every edge set that messages run along. What a destination reads of another part is a halo row.
        num_nodes: N, more than ``num_parts``.
        num_parts: k, at least 2.
        weights: int64 ``[N]``, what a node costs the part that owns it: 1 + its in-edges.
        seed: of what a method draws.
        positions: float64 ``[N, D]``, where the nodes are in space; None where the data does not say.
    """

    edges: tuple[Ends, ...]
    num_nodes: int
    num_parts: int
    weights: Tensor
    seed: int = 0
    positions: Tensor | None = None

    @property
    def num_edges(self) -> int:
        """E, of all edge sets together."""
        return sum(ends.index.size(1) for ends in self.edges)

    @property
    def bound(self) -> int:
        """The weight that a part should not exceed."""
        return weight_bound(self.weights, self.num_parts)


def weight_bound(weights: Tensor, num_parts: int) -> int:
    """The weight that a part should not exceed: the mean and some, or that of the heaviest node."""
    return max(int(IMBALANCE * int(weights.sum()) / num_parts), int(weights.max()))
