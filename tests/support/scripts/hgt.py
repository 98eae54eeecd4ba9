"""A heterogeneous graph transformer, as in hgt_dblp.py of PyG."""

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.nn import HGTConv, Linear

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


class HGT(torch.nn.Module):
    def __init__(self, hidden_channels, num_heads, num_layers):
        super().__init__()
        self.lin_dict = torch.nn.ModuleDict()
        for node_type in data.node_types:
            self.lin_dict[node_type] = Linear(data[node_type].num_features, hidden_channels)
        self.convs = torch.nn.ModuleList()
        for _ in range(num_layers):
            self.convs.append(HGTConv(hidden_channels, hidden_channels, data.metadata(), num_heads))
        self.lin = Linear(hidden_channels, 3)

    def forward(self, x_dict, edge_index_dict):
        x_dict = {node_type: self.lin_dict[node_type](x).relu() for node_type, x in x_dict.items()}
        for conv in self.convs:
            x_dict = conv(x_dict, edge_index_dict)
        return self.lin(x_dict["paper"])


model = HGT(hidden_channels=16, num_heads=2, num_layers=1)
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=0.001)
for epoch in range(1, 7):
    model.train()
    optimizer.zero_grad()
    out = model(data.x_dict, data.edge_index_dict)
    loss = F.cross_entropy(out[train_mask], data["paper"].y[train_mask])
    loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        pred = model(data.x_dict, data.edge_index_dict).argmax(dim=-1)
    acc = (pred[val_mask] == data["paper"].y[val_mask]).sum() / val_mask.sum()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Val: {acc:.4f}")
