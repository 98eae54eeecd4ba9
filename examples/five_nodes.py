"""The worked example: a directed graph of nodes A-E on 2 ranks, with a GCN and a GAT of 2 layers.

Run it with ``python examples/five_nodes.py``; ``docs/worked-example.md`` explains what it prints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv

import graphshard

NAMES = "ABCDE"
EDGES = torch.tensor([[0, 1, 2, 2, 3, 4, 0], [1, 2, 0, 3, 4, 2, 3]])  # A->B B->C C->A C->D D->E E->C A->D
PARTS = torch.tensor([0, 0, 1, 1, 1])  # {A, B} and {C, D, E}


class TwoLayers(nn.Module):
    """A plain single-machine model."""

    def __init__(self, conv: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 4), conv(4, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x, edge_index)), edge_index)


def gcn() -> nn.Module:
    return TwoLayers(GCNConv)


def gat() -> nn.Module:
    return TwoLayers(GATConv)


def graph() -> dict[str, Tensor]:
    return {"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), "edge_index": EDGES}


def main() -> None:
    sharded = graphshard.partition(graph(), 2, method=PARTS)
    for shard in sharded:
        names = [NAMES[i] for i in shard.node_ids.tolist()]
        owned, halo = names[: shard.num_owned], names[shard.num_owned :]
        sent = [owned[i] for i in shard.halo.send_index.tolist()]
        print(
            f"rank {shard.rank}: owned {owned}, halo {halo}, sends {sent}, edges {shard.edge_index.local().tolist()}"
        )
    for make in (gcn, gat):
        torch.manual_seed(0)
        print(f"\n{make.__name__}: {graphshard.verify(make, graph(), 2, method=PARTS).summary()}")
        # Without the passes that only make it faster: every sync stands where the layer's code reads a source.
        print(graphshard.diff(make(), sharded, options=graphshard.Options.none()))


if __name__ == "__main__":
    main()
