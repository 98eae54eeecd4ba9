"""Node classification with split indices, as in the examples of OGB."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import SAGEConv

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

num_nodes = 40
edge_index = torch.randint(num_nodes, (2, 150))
x = torch.randn(num_nodes, 8)
y = torch.randint(3, (num_nodes, 1))
order = torch.randperm(num_nodes)
split_idx = {"train": order[:20], "valid": order[20:30], "test": order[30:]}


class SAGE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList([SAGEConv(8, 16), SAGEConv(16, 3)])
        self.bns = torch.nn.ModuleList([torch.nn.BatchNorm1d(16)])

    def forward(self, x, edge_index):
        for conv, bn in zip(self.convs[:-1], self.bns):
            x = bn(conv(x, edge_index)).relu()
        return self.convs[-1](x, edge_index).log_softmax(dim=-1)


def train(model, train_idx, optimizer):
    model.train()
    optimizer.zero_grad()
    out = model(x, edge_index)[train_idx]
    loss = F.nll_loss(out, y.squeeze(1)[train_idx])
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def test(model):
    model.eval()
    y_pred = model(x, edge_index).argmax(dim=-1, keepdim=True)
    return [float((y_pred[idx] == y[idx]).double().mean()) for idx in split_idx.values()]


model = SAGE()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(1, 7):
    loss = train(model, split_idx["train"], optimizer)
    train_acc, valid_acc, test_acc = test(model)
    print(
        f"Epoch: {epoch:02d}, Loss: {loss:.4f}, Train: {100 * train_acc:.2f}%, Valid: {100 * valid_acc:.2f}%"
    )
