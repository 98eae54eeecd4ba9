"""The models of PyG's examples, written for the shapes of their data: what people start from.

Each forward names the tensors of ``citations()``; models that train with a loss of their own return it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from support.models import pyg  # PyG's import warns; models.py knows of what
from torch import Tensor, nn

WORDS, CLASSES, RELATIONS, GRAPHS = 12, 4, 3, 4


def citations(nodes: int = 26, edges: int = 90) -> dict[str, Tensor]:
    """A graph with the tensors of Planetoid (row-normalised bags of words, masks), AIFB and a batch of graphs."""
    generator = torch.Generator().manual_seed(5)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    words = integers(3, nodes, WORDS).double() + 0.01
    return {
        "x": words / words.sum(1, keepdim=True),
        "edge_index": integers(nodes, 2, edges),
        "edge_type": integers(RELATIONS, edges),
        "edge_attr": torch.rand(edges, 3, generator=generator, dtype=torch.float64),
        "y": integers(CLASSES, nodes),
        "train_mask": torch.arange(nodes) % 3 == 0,
        "batch": integers(GRAPHS, nodes).sort().values,
        "atom": integers(5, nodes),
    }


class Gcn(nn.Module):
    """gcn.py: two convolutions, dropout before each, edge weights absent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.GCNConv(WORDS, 16), pyg.GCNConv(16, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.dropout(x, 0.5, self.training)
        x = self.conv1(x, edge_index).relu()
        return self.conv2(F.dropout(x, 0.5, self.training), edge_index)


class GcnLoss(Gcn):
    """The same with the loss of its training step inside."""

    def forward(self, x: Tensor, edge_index: Tensor, y: Tensor, train_mask: Tensor) -> Tensor:
        return F.cross_entropy(super().forward(x, edge_index)[train_mask], y[train_mask])


class Gat(nn.Module):
    """gat.py: eight heads, dropout of features and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = pyg.GATConv(WORDS, 4, 8, dropout=0.6)
        self.conv2 = pyg.GATConv(32, CLASSES, heads=1, concat=False, dropout=0.6)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.elu(self.conv1(F.dropout(x, 0.6, self.training), edge_index))
        return self.conv2(F.dropout(x, 0.6, self.training), edge_index)


class Gin(nn.Module):
    """mutag_gin.py: GIN layers over all graphs of a batch, a sum over each graph, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.gnn = pyg.GIN(WORDS, 16, 3, dropout=0.5, jk="cat")
        self.classifier = pyg.MLP([16, 16, CLASSES], norm="batch_norm", dropout=0.5)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = self.gnn(x, edge_index)
        return self.classifier(pyg.global_add_pool(h, batch, size=GRAPHS))


class Sgc(nn.Module):
    """sgc.py, without the cache that keeps the first graph."""

    def __init__(self, cached: bool = False) -> None:
        super().__init__()
        self.conv = pyg.SGConv(WORDS, CLASSES, K=2, cached=cached)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index).log_softmax(dim=1)


class Appnp(nn.Module):
    """A classifier of nodes whose predictions are propagated."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.prop = nn.Linear(WORDS, 16), nn.Linear(16, CLASSES), pyg.APPNP(4, 0.1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.lin1(F.dropout(x, 0.5, self.training)).relu()
        x = self.lin2(F.dropout(x, 0.5, self.training))
        return self.prop(x, edge_index).log_softmax(dim=1)


class Arma(nn.Module):
    """arma.py: stacks with shared weights and dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"num_stacks": 3, "num_layers": 2, "shared_weights": True, "dropout": 0.25}
        self.conv1 = pyg.ARMAConv(WORDS, 8, **options)
        self.conv2 = pyg.ARMAConv(8, CLASSES, **options, act=lambda x: x)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.relu(self.conv1(F.dropout(x, 0.5, self.training), edge_index))
        return self.conv2(F.dropout(x, 0.5, self.training), edge_index).log_softmax(dim=1)


class Tagcn(nn.Module):
    """tagcn.py."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.TAGConv(WORDS, 16), pyg.TAGConv(16, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.conv1(x, edge_index)), 0.5, self.training)
        return F.log_softmax(self.conv2(x, edge_index), dim=1)


class SuperGat(nn.Module):
    """super_gat.py, without the loss of its sampled negative pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = pyg.SuperGATConv(WORDS, 4, heads=4, dropout=0.6, attention_type="MX")
        self.conv2 = pyg.SuperGATConv(16, CLASSES, heads=4, dropout=0.6, attention_type="MX", concat=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.elu(self.conv1(F.dropout(x, 0.6, self.training), edge_index))
        x = self.conv2(F.dropout(x, 0.6, self.training), edge_index)
        return F.log_softmax(x, dim=-1)


class Gcn2(nn.Module):
    """gcn2_cora.py: a deep stack with the first features in every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lins = nn.ModuleList([nn.Linear(WORDS, 8), nn.Linear(8, CLASSES)])
        self.convs = nn.ModuleList(
            pyg.GCN2Conv(8, 0.1, 0.5, layer + 1, shared_weights=True, normalize=True) for layer in range(5)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        first = x = self.lins[0](F.dropout(x, 0.6, self.training)).relu()
        for conv in self.convs:
            x = conv(F.dropout(x, 0.6, self.training), first, edge_index).relu()
        return self.lins[1](F.dropout(x, 0.6, self.training)).log_softmax(dim=-1)


class Pna(nn.Module):
    """pna.py on molecules: categories of atoms and bonds, four aggregators, batch norms, a sum over each graph."""

    def __init__(self) -> None:
        super().__init__()
        degrees = torch.tensor([1, 4, 7, 6, 5, 2, 1])
        self.atoms, self.bonds = nn.Embedding(5, 8), nn.Embedding(RELATIONS, 4)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            aggregators, scalers = ["mean", "min", "max", "std"], ["identity", "amplification", "attenuation"]
            conv = pyg.PNAConv(8, 8, aggregators, scalers, degrees, edge_dim=4, towers=2, divide_input=False)
            self.convs.append(conv)
            self.norms.append(pyg.BatchNorm(8))
        self.mlp = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 1))

    def nodes(self, atom: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        x, edge_attr = self.atoms(atom), self.bonds(edge_type)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, edge_index, edge_attr)))
        return x

    def forward(self, atom: Tensor, edge_index: Tensor, edge_type: Tensor, batch: Tensor) -> Tensor:
        return self.mlp(pyg.global_add_pool(self.nodes(atom, edge_index, edge_type), batch, GRAPHS))


class PnaNodes(Pna):
    """The same for nodes."""

    def forward(self, atom: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        return self.mlp(self.nodes(atom, edge_index, edge_type))


class Rgcn(nn.Module):
    """rgcn.py with features of nodes: a convolution for each type of edge, weights from bases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = pyg.RGCNConv(WORDS, 16, RELATIONS, num_bases=2)
        self.conv2 = pyg.RGCNConv(16, CLASSES, RELATIONS, num_bases=2)

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        x = F.relu(self.conv1(x, edge_index, edge_type))
        return F.log_softmax(self.conv2(x, edge_index, edge_type), dim=1)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.GCNConv(WORDS, 16), pyg.GCNConv(16, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class Autoencoder(nn.Module):
    """autoencoder.py: the loss of the edges that exist."""

    def __init__(self) -> None:
        super().__init__()
        self.gae = pyg.GAE(_Encoder())

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        z = self.gae.encode(x, edge_index)
        return z, -torch.log(self.gae.decode(z, edge_index) + 1e-15).mean()


class _Prelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.prelu = pyg.GCNConv(WORDS, 8), nn.PReLU(8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.prelu(self.conv(x, edge_index))


def _shuffled(x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return x[torch.randperm(x.size(0), device=x.device)], edge_index


def _mirrored(x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return 0.1 - x, edge_index


class Infomax(nn.Module):
    """infomax_transductive.py: a summary of all nodes told from that of corrupted features."""

    def __init__(self, shuffled: bool) -> None:
        super().__init__()
        corruption = _shuffled if shuffled else _mirrored
        self.dgi = pyg.DeepGraphInfomax(8, _Prelu(), lambda z, *_: z.mean(dim=0).sigmoid(), corruption)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.dgi.loss(*self.dgi(x, edge_index))


class LabelPropagation(nn.Module):
    """label_prop.py."""

    def __init__(self) -> None:
        super().__init__()
        self.model = pyg.LabelPropagation(3, alpha=0.9)

    def forward(self, y: Tensor, edge_index: Tensor, train_mask: Tensor) -> Tensor:
        # The classes are counted beforehand, as a number of classes is not a function of one shard.
        return self.model(F.one_hot(y, CLASSES).double(), edge_index, mask=train_mask)


class CorrectAndSmooth(nn.Module):
    """correct_and_smooth.py: an MLP whose predictions are corrected and smoothed over the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = pyg.MLP([WORDS, 8, CLASSES], dropout=0.5, norm="batch_norm", act_first=True)
        self.post = pyg.CorrectAndSmooth(3, 0.9, 3, 0.8, autoscale=False, scale=2.0)

    def forward(self, x: Tensor, edge_index: Tensor, y: Tensor, train_mask: Tensor) -> Tensor:
        soft, known = self.mlp(x).softmax(dim=-1), F.one_hot(y[train_mask], CLASSES).double()
        soft = self.post.correct(soft, known, train_mask, edge_index)
        return self.post.smooth(soft, known, train_mask, edge_index)
