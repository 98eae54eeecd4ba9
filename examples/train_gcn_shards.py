"""Train a GCN of which each rank holds its own part only: torchrun --nproc-per-node 2 examples/train_gcn_shards.py"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.datasets import KarateClub
from torch_geometric.nn import GCNConv

import graphshard


class GCN(torch.nn.Module):
    """A plain single-machine model: nothing here knows of ranks."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(features, 16), GCNConv(16, classes)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    if dist.get_rank() == 0:  # once; the data may also be tensors or a networkx graph
        graphshard.partition(KarateClub()[0], num_parts=dist.get_world_size()).save("parts")
    dist.barrier()

    shard = graphshard.load_shard("parts").to(torch.float64)  # a rank reads its own part only
    model = graphshard.distribute(GCN(34, 4).double())  # the same Parameters, the same state_dict keys
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    mask = shard.train_mask
    for epoch in range(100):
        out = model(shard)  # or model(shard.x, shard.edge_index)
        loss = F.cross_entropy(out[mask], shard.y[mask])  # of all ranks' nodes
        optimizer.zero_grad()
        loss.backward()  # gradients are already summed over the ranks
        optimizer.step()
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: loss {loss.item()}")

    if dist.get_rank() == 0:
        torch.save(model.state_dict(), "gcn.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
