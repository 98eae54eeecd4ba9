"""A signed graph with sampled triplets, as in signed_gcn.py of PyG."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import SignedGCN
from torch_geometric.utils import negative_sampling

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
pos_edge_index = torch.randint(num_nodes, (2, 90))
neg_edge_index = torch.randint(num_nodes, (2, 60))
x = torch.randn(num_nodes, 8)
signed = SignedGCN(8, 16, num_layers=2, lamb=5)
head = torch.nn.Linear(32, 3)
edges = {"pos_edge_index": "edge_index", "neg_edge_index": "edge_index:negative"}
model = graphshard.distribute(signed, roles=edges)
optimizer = torch.optim.Adam([*signed.parameters(), *head.parameters()], lr=0.01, weight_decay=5e-4)


def score(z, edge_index):
    return head(torch.cat([z[edge_index[0]], z[edge_index[1]]], dim=1))


for epoch in range(1, 7):
    optimizer.zero_grad()
    z = model(x, pos_edge_index, neg_edge_index)
    both = torch.cat([pos_edge_index, neg_edge_index], dim=1)
    none_edge_index = negative_sampling(both, z.size(0), num_neg_samples=50)
    loss = 0.0
    for sign, edges in enumerate([pos_edge_index, neg_edge_index, none_edge_index]):
        loss = loss + F.cross_entropy(score(z, edges), torch.full((edges.size(1),), sign))
    loss.backward()
    optimizer.step()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}")
