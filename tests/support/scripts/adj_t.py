"""A transposed sparse adjacency, as in the examples of OGB."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import to_torch_coo_tensor

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)
y = torch.randint(3, (num_nodes,))
adj_t = to_torch_coo_tensor(edge_index, size=num_nodes).t().coalesce()
train_idx = torch.arange(0, num_nodes, 2)


class SAGE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = SAGEConv(8, 16)
        self.conv2 = SAGEConv(16, 3)

    def forward(self, x, adj_t):
        return self.conv2(self.conv1(x, adj_t).relu(), adj_t)


model = SAGE()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(1, 7):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x, adj_t)[train_idx], y[train_idx])
    loss.backward()
    optimizer.step()
    print(f"Epoch: {epoch:02d}, Loss: {loss:.4f}")
