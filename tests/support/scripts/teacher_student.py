"""A student that learns from the outputs of a teacher."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import GATConv, GCNConv

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


class GAT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GATConv(8, 8, heads=2)
        self.conv2 = GATConv(16, 3)

    def forward(self, x, edge_index):
        return self.conv2(F.elu(self.conv1(x, edge_index)), edge_index)


mask = torch.arange(num_nodes) % 2 == 0
teacher, student = GAT(), GCN(8, 8, 3)
teacher, student = graphshard.distribute(teacher), graphshard.distribute(student)
optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
for epoch in range(1, 4):
    optimizer.zero_grad()
    loss = F.cross_entropy(teacher(x, edge_index)[mask], y[mask])
    loss.backward()
    optimizer.step()
    print(f"Teacher, Epoch: {epoch:03d}, Loss: {loss:.4f}")

teacher.eval()
with torch.no_grad():
    soft = (teacher(x, edge_index) / 2.0).softmax(dim=-1)
optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
for epoch in range(1, 4):
    optimizer.zero_grad()
    out = student(x, edge_index)
    loss = F.cross_entropy(out[mask], y[mask])
    loss = loss + F.kl_div((out / 2.0).log_softmax(dim=-1), soft, reduction="batchmean")
    loss.backward()
    optimizer.step()
    print(f"Student, Epoch: {epoch:03d}, Loss: {loss:.4f}")
