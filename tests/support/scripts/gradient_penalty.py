"""A penalty of the gradient with respect to the features: a second derivative."""

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
        x = self.conv1(x, edge_index).tanh()
        return self.conv2(x, edge_index)


model = GCN(8, 16, 3)
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(1, 7):
    optimizer.zero_grad()
    features = x.clone().requires_grad_()
    out = model(features, edge_index)
    loss = F.cross_entropy(out, y)
    (gradient,) = torch.autograd.grad(loss, features, create_graph=True)
    penalty = gradient.square().sum(dim=-1).mean()
    (loss + 10.0 * penalty).backward()
    optimizer.step()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Penalty: {penalty:.6f}")
