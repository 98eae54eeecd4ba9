"""Models that test_cli.py gives to the command line as ``cli_models.py:NAME``; for karate's 34 features."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCNConv


class Plain(nn.Module):
    def __init__(self, cached=False):
        super().__init__()
        self.conv = GCNConv(34, 2, cached=cached)

    def forward(self, x, edge_index):
        return self.conv(x, edge_index)


class GivesLoss(Plain):
    """Forward returns the loss itself."""

    def forward(self, x, edge_index, y, train_mask):
        out = F.dropout(self.conv(x, edge_index), 0.5, self.training)
        return F.cross_entropy(out[train_mask], y[train_mask])


class Branches(Plain):
    def forward(self, x, edge_index):
        if x.sum() > 0:
            x = x * 2
        return self.conv(x, edge_index)


class NoRule(Plain):
    def forward(self, x, edge_index):
        return self.conv(x * torch.fft.rfft(x).abs().sum(), edge_index)


class GivesDict(Plain):
    def forward(self, x, edge_index):
        return {"out": self.conv(x, edge_index)}


def cached():
    return Plain(cached=True)


def needs_arguments(width):
    return nn.Linear(34, width)


def raises():
    raise ValueError("planted\nand more")


def gives_int():
    return 3


instance = Plain()
number = 3
