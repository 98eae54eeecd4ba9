"""Train a GCN on as many ranks as torchrun starts: torchrun --nproc-per-node 2 examples/train_gcn.py"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.datasets import KarateClub
from torch_geometric.nn import GCNConv

import graphshard  # 1


class GCN(torch.nn.Module):
    """A plain single-machine model: nothing here knows of ranks."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(features, 16), GCNConv(16, classes)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


def main() -> None:
    graphshard.init()  # 2
    torch.manual_seed(0)
    data = KarateClub()[0]
    data.x = data.x.double()
    model = GCN(34, 4).double()
    model = graphshard.distribute(model)  # 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(100):
        out = model(data.x, data.edge_index)
        loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        correct = out.argmax(-1) == data.y
        print(f"epoch {epoch}: loss {loss.item()}, accuracy {correct[~data.train_mask].float().mean():.3f}")


if __name__ == "__main__":
    main()
