"""Deep Graph Infomax with a corruption that permutes nodes, as in infomax_transductive.py of PyG."""

import torch
from torch_geometric.nn import DeepGraphInfomax, GCNConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)


class Encoder(torch.nn.Module):
    def __init__(self, in_channels, hidden_channels):
        super().__init__()
        self.conv = GCNConv(in_channels, hidden_channels)
        self.prelu = torch.nn.PReLU(hidden_channels)

    def forward(self, x, edge_index):
        return self.prelu(self.conv(x, edge_index))


def corruption(x, edge_index):
    return x[torch.randperm(x.size(0))], edge_index


encoder = Encoder(8, 16)
encoder = graphshard.distribute(encoder)
model = DeepGraphInfomax(
    hidden_channels=16,
    encoder=encoder,
    summary=lambda z, *args, **kwargs: z.mean(dim=0).sigmoid(),
    corruption=corruption,
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
for epoch in range(1, 7):
    model.train()
    optimizer.zero_grad()
    pos_z, neg_z, summary = model(x, edge_index)
    loss = model.loss(pos_z, neg_z, summary)
    loss.backward()
    optimizer.step()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}")
