"""Graph classification on one batch of graphs."""

import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GraphConv, global_mean_pool

import graphshard

graphshard.init()
torch.set_default_dtype(torch.float64)
torch.manual_seed(12345)

graphs = []
for number in range(12):
    size = 4 + number % 5
    graph = Data(x=torch.randn(size, 8), edge_index=torch.randint(size, (2, 3 * size)))
    graph.y = torch.tensor([number % 2])
    graphs.append(graph)
data = Batch.from_data_list(graphs)


class GNN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GraphConv(8, 16)
        self.conv2 = GraphConv(16, 16)
        self.lin = torch.nn.Linear(16, 2)

    def forward(self, x, edge_index, batch):
        x = self.conv1(x, edge_index).relu()
        x = self.conv2(x, edge_index)
        return self.lin(global_mean_pool(x, batch, size=12))


model = GNN()
model = graphshard.distribute(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = torch.nn.CrossEntropyLoss()
for epoch in range(1, 7):
    out = model(data.x, data.edge_index, data.batch)
    loss = criterion(out, data.y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    correct = int((out.argmax(dim=1) == data.y).sum())
    print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Train Acc: {correct / len(graphs):.4f}")
