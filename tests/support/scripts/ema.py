"""Weights that follow as a moving average, with which the model is tested."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import GINConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)
y = torch.randint(3, (num_nodes,))


def mlp(size_in, size_out):
    return torch.nn.Sequential(torch.nn.Linear(size_in, 16), torch.nn.ReLU(), torch.nn.Linear(16, size_out))


class GIN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GINConv(mlp(8, 16)), GINConv(mlp(16, 3))

    def forward(self, x, edge_index):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


model = GIN()
model = graphshard.distribute(model)
average = {name: value.clone() for name, value in model.state_dict().items()}
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
for epoch in range(1, 7):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x, edge_index), y, label_smoothing=0.1)
    loss.backward()
    optimizer.step()
    scheduler.step()
    for name, value in model.state_dict().items():
        average[name].mul_(0.9).add_(value, alpha=0.1)
    model.eval()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    with torch.no_grad():
        acc = float((model(x, edge_index).argmax(dim=-1) == y).double().mean())
        val = float(F.cross_entropy(model(x, edge_index), y))
    model.load_state_dict(own)
    print(f"Epoch: {epoch:02d}, Loss: {loss:.4f}, Averaged: {acc:.4f}, {val:.4f}")
