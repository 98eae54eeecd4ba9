"""What one rank holds of one node set, and of one edge set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.graph.schema import MESSAGES, EdgeSet
from graphshard.shard.halo import HaloPlan


@dataclass(frozen=True, eq=False)
class NodeShard:
    """What one rank holds of a node set.

    Attributes:
        num_nodes: N, of the whole graph.
        plans: this rank's side of the halo exchange, for each plan.
        node_ids: int64 ``[n+h]`` for each plan, global ids of the owned, then the halo nodes.
    """

    num_nodes: int
    plans: dict[str, HaloPlan]
    node_ids: dict[str, Tensor]

    @property
    def num_owned(self) -> int:
        """n, the number of owned nodes."""
        return self.plans[MESSAGES].num_owned

    @property
    def num_halo(self) -> int:
        """h, the number of halo nodes that edges read."""
        return self.plans[MESSAGES].num_halo

    @property
    def owned_ids(self) -> Tensor:
        """int64 ``[n]``, global ids of the owned nodes, ascending."""
        return self.node_ids[MESSAGES][: self.num_owned]

    def to(self, device: torch.device | str) -> NodeShard:
        """The same on a device."""
        return NodeShard(
            self.num_nodes,
            {name: plan.to(device) for name, plan in self.plans.items()},
            {name: ids.to(device) for name, ids in self.node_ids.items()},
        )


@dataclass(frozen=True, eq=False)
class EdgeShard:
    """What one rank holds of an edge set.

    Attributes:
        edge_set: which one, and between which nodes.
        num_edges: E, of the whole graph.
        edge_ids: int64 ``[e]``, the edges' positions in the whole graph, ascending.
    """

    edge_set: EdgeSet
    num_edges: int
    edge_ids: Tensor
