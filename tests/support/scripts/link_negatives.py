"""Link prediction with new negatives in each epoch, as in link_pred.py of PyG."""

import torch
from torch_geometric.nn import GCNConv
from torch_geometric.utils import negative_sampling

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)


class GCN(torch.nn.Module):
    def __init__(self, in_channels, hidden_channels, out_channels):
        super().__init__()
        self.conv1 = GCNConv(in_channels, hidden_channels)
        self.conv2 = GCNConv(hidden_channels, out_channels)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv2(x, edge_index)


def decode(z, edge_label_index):
    return (z[edge_label_index[0]] * z[edge_label_index[1]]).sum(dim=-1)


model = GCN(8, 16, 8)
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(params=model.parameters(), lr=0.01)
criterion = torch.nn.BCEWithLogitsLoss()
for epoch in range(1, 7):
    model.train()
    optimizer.zero_grad()
    z = model(x, edge_index)
    negatives = negative_sampling(edge_index, num_nodes=num_nodes, num_neg_samples=60)
    edge_label_index = torch.cat([edge_index, negatives], dim=-1)
    edge_label = torch.cat([torch.ones(edge_index.size(1)), torch.zeros(negatives.size(1))])
    loss = criterion(decode(z, edge_label_index).view(-1), edge_label)
    loss.backward()
    optimizer.step()
    hits = ((decode(z.detach(), edge_label_index) > 0) == edge_label.bool()).double().mean()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Hits: {hits:.4f}")
