"""A state that goes on over snapshots in time."""

import torch
from torch_geometric.nn import GCNConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
features = torch.randn(5, num_nodes, 4)
targets = features.roll(-1, dims=0).sum(dim=-1)


class GRU(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = GCNConv(4 + 8, 16)
        self.candidate = GCNConv(4 + 8, 8)
        self.out = torch.nn.Linear(8, 1)

    def forward(self, x, edge_index, h):
        z, r = self.gates(torch.cat([x, h], dim=-1), edge_index).sigmoid().chunk(2, dim=-1)
        candidate = self.candidate(torch.cat([x, r * h], dim=-1), edge_index).tanh()
        h = z * h + (1 - z) * candidate
        return self.out(h.relu()).squeeze(-1), h


model = GRU()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(1, 5):
    cost, h = 0.0, torch.zeros(num_nodes, 8)
    optimizer.zero_grad()
    for x, y in zip(features, targets):
        y_hat, h = model(x, edge_index, h)
        cost = cost + (y_hat - y).square().mean()
    cost = cost / features.size(0)
    cost.backward()
    optimizer.step()
    print(f"Epoch: {epoch:02d}, MSE: {cost:.4f}")
