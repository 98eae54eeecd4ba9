"""An adversarially regularised autoencoder, as in argva_node_clustering.py of PyG."""

import torch
from torch_geometric.nn import ARGVA, GCNConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)


class Encoder(torch.nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = GCNConv(in_channels, 2 * out_channels)
        self.conv_mu = GCNConv(2 * out_channels, out_channels)
        self.conv_logstd = GCNConv(2 * out_channels, out_channels)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv_mu(x, edge_index), self.conv_logstd(x, edge_index)


class Discriminator(torch.nn.Module):
    def __init__(self, in_channels, hidden_channels):
        super().__init__()
        self.lin1 = torch.nn.Linear(in_channels, hidden_channels)
        self.lin2 = torch.nn.Linear(hidden_channels, 1)

    def forward(self, x):
        return self.lin2(self.lin1(x).relu())


encoder = Encoder(8, 4)
encoder = graphshard.distribute(encoder)
discriminator = Discriminator(4, 16)
model = ARGVA(encoder, discriminator)
encoder_optimizer = torch.optim.Adam(encoder.parameters(), lr=0.005)
discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.001)
for epoch in range(1, 4):
    model.train()
    encoder_optimizer.zero_grad()
    z = model.encode(x, edge_index)
    for _ in range(2):
        discriminator_optimizer.zero_grad()
        discriminator_loss = model.discriminator_loss(z)
        discriminator_loss.backward()
        discriminator_optimizer.step()
    loss = model.recon_loss(z, edge_index)
    loss = loss + model.reg_loss(z)
    loss = loss + (1 / num_nodes) * model.kl_loss()
    loss.backward()
    encoder_optimizer.step()
    print(f"Epoch: {epoch:03d}, Loss: {loss:.3f}, Discriminator: {discriminator_loss:.3f}")
