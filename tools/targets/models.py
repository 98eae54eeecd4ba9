"""The models that the command line knows by name: ``gcn``, ``sage``, ``gat`` and ``gin``.

``gcn`` is written out in plain torch, so that the first command of the README needs no other package and shows
in its diff how a gather by edge becomes a sync. The other three are PyG's own layers, untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphshard.errors import DataError

NAMES = ("gcn", "sage", "gat", "gin")


@dataclass(frozen=True)
class Sizes:
    """What a built-in model is made for.

    Attributes:
        features: columns of x.
        classes: columns of the output.
        hidden: columns between two layers, of each head in ``gat``.
        layers: number of convolutions.
        dropout: before every layer, and of the attention in ``gat``.
        heads: of every layer of ``gat`` but the last.
    """

    features: int
    classes: int
    hidden: int = 16
    layers: int = 2
    dropout: float = 0.5
    heads: int = 4


class GCNLayer(nn.Module):
    """``D^-1/2 (A + I) D^-1/2 X W + b``, with D the in-degrees of A + I (Kipf and Welling, 2017)."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, out))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, destination = edge_index[0], edge_index[1]
        degree = x.new_ones(x.size(0)).index_add(0, destination, x.new_ones(edge_index.size(1)))
        scale = degree.pow(-0.5).unsqueeze(1)
        h = x @ self.weight * scale
        return (h.index_add(0, destination, h[source])) * scale + self.bias


class Net(nn.Module):
    """Convolutions with dropout before each and ReLU between them; returns logits ``[N, classes]``."""

    def __init__(self, convs: list[nn.Module], dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = F.dropout(x if i == 0 else F.relu(x), self.dropout, self.training)
            x = conv(x, edge_index)
        return x


def build(name: str, sizes: Sizes) -> nn.Module:
    """A built-in model.

    Raises:
        DataError: it needs PyG, which is not installed, or a size makes no sense.
    """
    if min(sizes.features, sizes.classes, sizes.hidden, sizes.layers, sizes.heads) < 1:
        raise DataError(f"a model needs at least one feature, class, layer and hidden unit, not {sizes}")
    if not 0 <= sizes.dropout < 1:
        raise DataError(f"dropout must be at least 0 and below 1, not {sizes.dropout}")
    return Net(_convs(name, sizes), sizes.dropout)


def _convs(name: str, sizes: Sizes) -> list[nn.Module]:
    hidden = [sizes.hidden] * (sizes.layers - 1)
    outs = [*hidden, sizes.classes]
    if name == "gcn":
        return [GCNLayer(i, o) for i, o in zip([sizes.features, *hidden], outs, strict=True)]
    pyg = _pyg(name)
    if name == "gat":
        ins = [sizes.features, *(size * sizes.heads for size in hidden)]
        heads = [sizes.heads] * len(hidden) + [1]
        made = zip(ins, outs, heads, strict=True)
        return [pyg.GATConv(i, o, heads=h, dropout=sizes.dropout) for i, o, h in made]
    pairs = list(zip([sizes.features, *hidden], outs, strict=True))
    if name == "sage":
        return [pyg.SAGEConv(i, o) for i, o in pairs]
    return [pyg.GINConv(_perceptron(i, sizes.hidden, o), train_eps=True) for i, o in pairs]


def _perceptron(features: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


def _pyg(name: str) -> Any:
    try:
        import torch_geometric.nn
    except ImportError:
        raise DataError(f"the model {name!r} needs PyG: pip install graphshard[pyg], or use gcn") from None
    return torch_geometric.nn
