"""Models whose diffs are kept as text. The golden files name lines of this file: add models at the end."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv


class GAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GATConv(5, 4, heads=2)
        self.conv2 = GATConv(8, 3)

    def forward(self, x, edge_index):
        h = F.elu(self.conv1(x, edge_index))
        return self.conv2(h, edge_index)


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GCNConv(5, 8)
        self.conv2 = GCNConv(8, 3)

    def forward(self, x, edge_index):
        h = self.conv1(x, edge_index).relu()
        return self.conv2(h, edge_index)


class SAGELoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = SAGEConv(5, 8)
        self.conv2 = SAGEConv(8, 3)

    def forward(self, x, edge_index, y, train_mask):
        h = self.conv1(x, edge_index).relu()
        out = self.conv2(h, edge_index)
        return F.cross_entropy(out[train_mask], y[train_mask])


class MeanLayer(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.lin = nn.Linear(width_in, width_out)

    def forward(self, x, src, dst):
        total = torch.zeros_like(x).index_add(0, dst, x[src])
        degree = torch.zeros_like(x[:, :1]).index_add(
            0, dst, torch.ones_like(src, dtype=x.dtype).unsqueeze(1)
        )
        return self.lin(total / degree.clamp(min=1))


class HandWritten(nn.Module):
    """Plain torch: a layer of the user's own, out-degrees (a scatter by source) and a mean over all nodes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([MeanLayer(5, 8), MeanLayer(8, 3)])

    def forward(self, x, edge_index):
        src, dst = edge_index[0], edge_index[1]
        ones = torch.ones_like(src, dtype=x.dtype)
        out_degree = torch.zeros_like(x[:, 0]).index_add(0, src, ones)
        h = x * out_degree.unsqueeze(1)
        for layer in self.layers:
            h = layer(h, src, dst)
        return h - h.mean(0)
