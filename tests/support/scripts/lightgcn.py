"""LightGCN with a ranking loss over sampled pairs; the embedding is an input that is trained."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import LGConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_users, num_items = 15, 20
num_nodes = num_users + num_items
pairs = torch.stack([torch.randint(num_users, (80,)), num_users + torch.randint(num_items, (80,))])
edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)


class Propagation(torch.nn.Module):
    def __init__(self, num_layers):
        super().__init__()
        self.alpha = torch.nn.Parameter(torch.full((num_layers + 1,), 1 / (num_layers + 1)))
        self.convs = torch.nn.ModuleList([LGConv() for _ in range(num_layers)])

    def forward(self, x, edge_index):
        out = x * self.alpha[0]
        for i, conv in enumerate(self.convs):
            x = conv(x, edge_index)
            out = out + x * self.alpha[i + 1]
        return out


embedding = torch.nn.Embedding(num_nodes, 8)
model = Propagation(num_layers=2)
model = graphshard.distribute(model)
optimizer = torch.optim.Adam([*embedding.parameters(), *model.parameters()], lr=0.01)
for epoch in range(1, 7):
    negatives = num_users + torch.randint(num_items, (pairs.size(1),))
    optimizer.zero_grad()
    out = model(embedding.weight, edge_index)
    pos_rank = (out[pairs[0]] * out[pairs[1]]).sum(dim=-1)
    neg_rank = (out[pairs[0]] * out[negatives]).sum(dim=-1)
    loss = -F.logsigmoid(pos_rank - neg_rank).mean()
    loss = loss + 1e-4 * embedding.weight[pairs.unique()].square().sum()
    loss.backward()
    optimizer.step()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}")
