"""A mesh simulator with edge features and a normaliser that learns statistics while it trains."""

import torch
import torch.nn.functional as F
from torch_geometric.utils import scatter

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
position = torch.rand(num_nodes, 2)
edge_index = torch.randint(num_nodes, (2, 150))
offset = position[edge_index[0]] - position[edge_index[1]]
edge_attr = torch.cat([offset, offset.norm(dim=-1, keepdim=True)], dim=-1)
states = torch.randn(4, num_nodes, 3).cumsum(dim=0)


class Normalizer(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("total", torch.zeros(size))
        self.register_buffer("squares", torch.zeros(size))

    def forward(self, x):
        if self.training:
            self.count += x.size(0)
            self.total += x.detach().sum(dim=0)
            self.squares += x.detach().square().sum(dim=0)
        mean = self.total / self.count
        std = (self.squares / self.count - mean.square()).clamp(min=1e-8).sqrt()
        return (x - mean) / std


def mlp(size_in, size_out):
    return torch.nn.Sequential(
        torch.nn.Linear(size_in, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, size_out),
        torch.nn.LayerNorm(size_out),
    )


class MeshGraphNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.normalizer = Normalizer(3)
        self.node_encoder, self.edge_encoder = mlp(3, 16), mlp(3, 16)
        self.edge_update, self.node_update = mlp(48, 16), mlp(32, 16)
        self.decoder = torch.nn.Linear(16, 3)

    def forward(self, x, edge_index, edge_attr):
        x, e = self.node_encoder(self.normalizer(x)), self.edge_encoder(edge_attr)
        row, col = edge_index
        e = e + self.edge_update(torch.cat([x[row], x[col], e], dim=-1))
        messages = scatter(e, col, dim=0, dim_size=x.size(0), reduce="sum")
        x = x + self.node_update(torch.cat([x, messages], dim=-1))
        return self.decoder(x)


model = MeshGraphNet()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=5e-4)
for epoch in range(1, 3):
    for now, then in zip(states[:-1], states[1:]):
        optimizer.zero_grad()
        loss = F.mse_loss(model(now, edge_index, edge_attr), then - now)
        loss.backward()
        optimizer.step()
        print(f"Epoch: {epoch:02d}, Loss: {loss:.6f}")
