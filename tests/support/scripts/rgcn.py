"""A relational GCN on nodes without features, as in rgcn.py of PyG."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import RGCNConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes, num_relations = 40, 4
edge_index = torch.randint(num_nodes, (2, 150))
edge_type = torch.randint(num_relations, (150,))
train_idx = torch.arange(0, num_nodes, 3)
train_y = torch.randint(3, (train_idx.numel(),))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = RGCNConv(8, 16, num_relations, num_bases=3)
        self.conv2 = RGCNConv(16, 3, num_relations, num_bases=3)

    def forward(self, x, edge_index, edge_type):
        x = self.conv1(x, edge_index, edge_type).relu()
        return self.conv2(x, edge_index, edge_type).log_softmax(dim=1)


embedding = torch.nn.Embedding(num_nodes, 8)
model = Net()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam([*embedding.parameters(), *model.parameters()], lr=0.01, weight_decay=0.0005)
for epoch in range(1, 7):
    model.train()
    optimizer.zero_grad()
    out = model(embedding.weight, edge_index, edge_type)
    loss = F.nll_loss(out[train_idx], train_y)
    loss.backward()
    optimizer.step()
    acc = float((out[train_idx].argmax(dim=-1) == train_y).double().mean())
    print(f"Epoch: {epoch:02d}, Loss: {loss:.4f}, Train: {acc:.4f}")
