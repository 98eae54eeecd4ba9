"""A linear model whose predictions are smoothed over the graph, as in correct_and_smooth.py of PyG."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import LabelPropagation

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)
y = torch.randint(3, (num_nodes,))
mask = torch.arange(num_nodes) % 2 == 0
model = torch.nn.Linear(8, 3)
smooth = LabelPropagation(num_layers=3, alpha=0.8)
smooth = graphshard.distribute(smooth)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
for epoch in range(1, 7):
    optimizer.zero_grad()
    out = model(x)
    loss = F.cross_entropy(out[mask], y[mask])
    loss.backward()
    optimizer.step()
    soft = out.detach().softmax(dim=-1)
    soft[mask] = F.one_hot(y[mask], 3).double()
    pred = smooth(soft, edge_index).argmax(dim=-1)
    acc = float((pred[~mask] == y[~mask]).double().mean())
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Smoothed: {acc:.4f}")
