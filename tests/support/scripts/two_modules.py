"""A loss of two modules: an encoder, and a head outside of it that reconstructs the features."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import GCNConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)
y = torch.randint(3, (num_nodes,))


class GCN(torch.nn.Module):
    def __init__(self, in_channels, hidden_channels, out_channels):
        super().__init__()
        self.conv1 = GCNConv(in_channels, hidden_channels)
        self.conv2 = GCNConv(hidden_channels, out_channels)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv2(x, edge_index)


model = GCN(8, 16, 16)
classify = torch.nn.Linear(16, 3)
reconstruct = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
model = graphshard.distribute(model)
parameters = [*model.parameters(), *classify.parameters(), *reconstruct.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=0.01)
mask = torch.arange(num_nodes) < 20
for epoch in range(1, 7):
    optimizer.zero_grad()
    z = model(x, edge_index).relu()
    loss = F.cross_entropy(classify(z)[mask], y[mask]) + 0.5 * F.mse_loss(reconstruct(z), x)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}")
