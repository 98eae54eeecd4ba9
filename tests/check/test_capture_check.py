"""The check of each capture against the module: rounding is no reason to refuse, one percent is.

GRAPHSHARD_SEEDS=200 tries as many initial weights of each model.
"""

import os
import re
from functools import cache

import pytest
import torch
from torch import nn
from torch_geometric import nn as pyg

import graphshard
from graphshard.api import DistributedModule
from graphshard.check.module import check_capture

SEEDS = int(os.environ.get("GRAPHSHARD_SEEDS", "3"))


def graph(nodes=20, edges=70, features=5):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(nodes, features, generator=generator),
        "edge_index": torch.randint(0, nodes, (2, edges), generator=generator),
    }


class Stock(nn.Module):
    """conv -> norm -> ReLU, twice, and a linear layer: what most scripts write."""

    def __init__(self, conv, norm=nn.BatchNorm1d, width=16):
        super().__init__()
        self.convs = nn.ModuleList([conv(5, width), conv(width, width)])
        self.norms = nn.ModuleList([norm(width), norm(width)])
        self.out = nn.Linear(width, 3)

    def forward(self, x, edge_index):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, edge_index)).relu()
        return self.out(x)


def gin(inputs, outputs):
    layers = [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Linear(outputs, outputs)]
    return pyg.GINConv(nn.Sequential(*layers))


MODELS = {
    "gcn": lambda: Stock(pyg.GCNConv),
    "sage": lambda: Stock(pyg.SAGEConv, width=6),
    "gat": lambda: Stock(lambda i, o: pyg.GATConv(i, o // 2, heads=2)),
    "gin": lambda: Stock(gin),
    "graph": lambda: Stock(pyg.GraphConv),
    "tag": lambda: Stock(pyg.TAGConv),
    "transformer": lambda: Stock(pyg.TransformerConv),
    "graph norm": lambda: Stock(pyg.GCNConv, pyg.GraphNorm),
    "layer norm": lambda: Stock(pyg.SAGEConv, nn.LayerNorm),
    "instance norm": lambda: Stock(pyg.GraphConv, pyg.InstanceNorm),
}


@cache
def compiled(name):
    """One capture serves every seed: only the weights differ."""
    torch.manual_seed(0)
    data = graph()
    module = DistributedModule(MODELS[name]())
    module(data["x"], data["edge_index"])
    return next(iter(module._compiled.values()))


@pytest.mark.parametrize("name", MODELS)
def test_rounding_is_no_refusal(name):
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        check_capture(MODELS[name](), compiled(name))


class Escapes(Stock):
    """Computes another thing while it is captured."""

    factor = 1.01

    def forward(self, x, edge_index):
        out = super().forward(x, edge_index)
        return out * self.factor if torch.compiler.is_compiling() else out


class EscapesBeforeTheNorm(Escapes):
    """Where a batch norm hides the scale: only the shift shows."""

    def forward(self, x, edge_index):
        return Stock.forward(self, x + 0.01 if torch.compiler.is_compiling() else x, edge_index)


class EscapesInBackward(Escapes):
    """Right values, and a gradient of one percent too much."""

    def forward(self, x, edge_index):
        out = Stock.forward(self, x, edge_index)
        return out + 0.01 * (out - out.detach()) if torch.compiler.is_compiling() else out


class CountsInBackward(Stock):
    """A state that reaches a gradient only: no rounding, though no output tells. An iterator shows none."""

    calls = iter(range(1, 1 << 30))

    def forward(self, x, edge_index):
        out = super().forward(x, edge_index)
        return out + 0.02 * next(self.calls) * (out - out.detach())


@pytest.mark.parametrize("conv", [pyg.GCNConv, pyg.SAGEConv])
def test_a_state_that_reaches_gradients_alone_is_found(conv):
    torch.manual_seed(0)
    data = graph()
    with pytest.raises(graphshard.CaptureError, match=r"the gradient of .* differs"):
        graphshard.distribute(CountsInBackward(conv))(data["x"], data["edge_index"])


@pytest.mark.parametrize("escape", [Escapes, EscapesBeforeTheNorm, EscapesInBackward])
@pytest.mark.parametrize("conv", [pyg.GCNConv, pyg.SAGEConv])
def test_one_percent_is_found_in_float32(escape, conv):
    torch.manual_seed(0)
    data = graph()
    with pytest.raises(
        graphshard.CaptureError, match=r"differs by [\d.e-]+, where rounding explains"
    ) as raised:
        graphshard.distribute(escape(conv))(data["x"], data["edge_index"])
    differs, explained = map(float, re.findall(r"(?:differs by|explains) ([\d.e+-]+[\d])", str(raised.value)))
    assert differs > 2 * explained
