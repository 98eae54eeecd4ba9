"""Heterogeneous convolutions with early stopping, as in hetero_conv_dblp.py of PyG."""

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, SAGEConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

data = HeteroData()
data["paper"].x = torch.randn(30, 8)
data["paper"].y = torch.randint(3, (30,))
data["author"].x = torch.randn(20, 6)
data["author", "writes", "paper"].edge_index = torch.stack(
    [torch.randint(20, (70,)), torch.randint(30, (70,))]
)
data["paper", "written_by", "author"].edge_index = data["author", "writes", "paper"].edge_index.flip(0)
data["paper", "cites", "paper"].edge_index = torch.randint(30, (2, 60))
train_mask = torch.arange(30) < 15
val_mask = torch.arange(30) >= 22


class HeteroGNN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        channels = {"paper": 8, "author": 6}
        self.convs = torch.nn.ModuleList()
        for size in (channels, {"paper": 16, "author": 16}):
            self.convs.append(
                HeteroConv({kind: SAGEConv((size[kind[0]], size[kind[2]]), 16) for kind in data.edge_types})
            )
        self.lin = torch.nn.Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        for conv in self.convs:
            x_dict = conv(x_dict, edge_index_dict)
            x_dict = {key: x.relu() for key, x in x_dict.items()}
        return self.lin(x_dict["paper"])


model = HeteroGNN()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
best, patience = float("inf"), 0
for epoch in range(1, 30):
    model.train()
    optimizer.zero_grad()
    out = model(data.x_dict, data.edge_index_dict)
    loss = F.cross_entropy(out[train_mask], data["paper"].y[train_mask])
    loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        out = model(data.x_dict, data.edge_index_dict)
    val_loss = float(F.cross_entropy(out[val_mask], data["paper"].y[val_mask]))
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Val: {val_loss:.4f}")
    patience = 0 if val_loss < best else patience + 1
    best = min(best, val_loss)
    if patience == 3:
        print(f"Stopped after {epoch} epochs")
        break
