"""``torch_geometric.nn.models``: unsupervised, link-level, graph-level and molecular models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn import models as zoo

from graphshard.tools.zoo.configuration import CLASSES as C
from graphshard.tools.zoo.configuration import EDGE_FEATURES as E
from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.configuration import Configuration, layer, mlp, model
from graphshard.tools.zoo.forwards import edges, weights
from graphshard.tools.zoo.graphs import GRAPHS, NODES, RELATIONS


def _decoded(m: Any, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    z = m.layer.encode(x, edge_index)
    return z, m.layer.decode(z, edge_index)


def _reconstruction(m: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    """The loss of GAE, its negative pairs a function of the edges: the ends of consecutive edges."""
    z = m.layer.encode(x, edge_index)
    positive = m.layer.decode(z, edge_index, sigmoid=False)
    negative = (z[edge_index[0]] * z[edge_index[1]].flip(1)).sum(1)
    loss = nn.functional.binary_cross_entropy_with_logits
    return loss(positive, torch.ones_like(positive)) + loss(negative, torch.zeros_like(negative))


class _Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logstd = pyg.GCNConv(F, H), pyg.GCNConv(F, H)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(x, edge_index), self.logstd(x, edge_index)


def _kl(m: Any, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    z = m.layer.encode(x, edge_index)
    return m.layer.decode(z, edge_index), m.layer.kl_loss()


def _infomax(m: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    positive, negative, summary = m.layer(x, edge_index)
    return m.layer.loss(positive, negative, summary)  # type: ignore[no-any-return]


def _shuffled(x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return x[torch.randperm(x.size(0))], edge_index


def _negated(x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return -x, edge_index


def _summary(z: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.sigmoid(z.mean(0))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = pyg.GCNConv(F, H), nn.PReLU(H)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.act(self.conv(x, edge_index))  # type: ignore[no-any-return]


UNSUPERVISED = [
    layer(_decoded, "GAE, GCN", lambda: zoo.GAE(pyg.GCNConv(F, H))),
    layer(_decoded, "GAE, SAGE max", lambda: zoo.GAE(pyg.SAGEConv(F, H, aggr="max"))),
    layer(_reconstruction, "GAE, reconstruction loss", lambda: zoo.GAE(_Encoder())),
    layer(_kl, "VGAE", lambda: zoo.VGAE(_Variational())),
    layer(_kl, "VGAE, eval", lambda: zoo.VGAE(_Variational()), training=False),
    layer(
        _infomax,
        "DeepGraphInfomax, features negated",
        lambda: zoo.DeepGraphInfomax(H, _Encoder(), _summary, _negated),
    ),
    layer(
        _infomax,
        "DeepGraphInfomax, features shuffled",
        lambda: zoo.DeepGraphInfomax(H, _Encoder(), _summary, _shuffled),
    ),
    model(
        "InnerProductDecoder, all pairs",
        lambda m, x: zoo.InnerProductDecoder().forward_all(m.lin(x)),
        lambda: {"lin": nn.Linear(F, H)},
    ),
]


def _signed(m: Any, x: Tensor, edge_index: Tensor, edge_mask: Tensor) -> Any:
    """SignedGCN without its loss, which samples pairs."""
    return m.layer(x, edge_index[:, edge_mask], edge_index[:, ~edge_mask])


def _meta(m: Any, x: Tensor, edge_index: Tensor, edge_attr: Tensor, u: Tensor, batch: Tensor) -> Any:
    return m.layer(x, edge_index, edge_attr, u, batch)


class _EdgeModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2 * F + E + H, E)

    def forward(self, src: Tensor, dst: Tensor, edge_attr: Tensor, u: Tensor, batch: Tensor) -> Tensor:
        return self.net(torch.cat([src, dst, edge_attr, u[batch]], 1))  # type: ignore[no-any-return]


class _NodeModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(F + E, H), mlp(F + 2 * H, F)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, u: Tensor, batch: Tensor) -> Tensor:
        row, col = edge_index
        out = self.first(torch.cat([x[row], edge_attr], 1))
        out = x.new_zeros(x.size(0), H).index_add(0, col, out)
        return self.second(torch.cat([x, out, u[batch]], 1))  # type: ignore[no-any-return]


class _GlobalModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(H + F, H)

    def forward(self, x: Tensor, _edges: Tensor, _attr: Tensor, u: Tensor, batch: Tensor) -> Tensor:
        return self.net(torch.cat([u, pyg.global_mean_pool(x, batch, GRAPHS)], 1))  # type: ignore[no-any-return]


NODE_LEVEL = [
    layer(_signed, "SignedGCN", lambda: zoo.SignedGCN(F, H, 2)),
    layer(_meta, "MetaLayer", lambda: zoo.MetaLayer(_EdgeModel(), _NodeModel(), _GlobalModel())),
    layer(_meta, "MetaLayer, no global model", lambda: zoo.MetaLayer(_EdgeModel(), _NodeModel())),
    layer(
        lambda m, x, edge_index: m.layer(x, edge_index),
        "GraphUNet",
        lambda: zoo.GraphUNet(F, H, C, depth=2),
    ),
    layer(edges, "LINKX", lambda: zoo.LINKX(NODES, F, H, C, 2)),
    layer(edges, "RECT_L", lambda: zoo.RECT_L(F, H)),
    layer(weights, "RECT_L, edge_weight, dropout", lambda: zoo.RECT_L(F, H, dropout=0.4)),
    layer(edges, "ARLinkPredictor", lambda: zoo.ARLinkPredictor(F, H)),
    model(
        "SGFormer",
        lambda m, x, edge_index, batch: m.layer(x, edge_index, batch),
        lambda: {"layer": zoo.SGFormer(F, H, C)},
    ),
    model(
        "Polynormer",
        lambda m, x, edge_index, batch: m.layer(x, edge_index, batch),
        lambda: {"layer": zoo.Polynormer(F, H, C, local_layers=2, global_layers=1)},
    ),
    model(
        "Polynormer, local attention, one graph",
        lambda m, x, edge_index: m.layer(x, edge_index, None),
        lambda: {"layer": zoo.Polynormer(F, H, C, local_layers=2, local_attn=True)},
    ),
    model(
        "LightGCN",
        lambda m, edge_index: m.layer.get_embedding(edge_index),
        lambda: {"layer": zoo.LightGCN(NODES, H, 2)},
        node_parameters=("layer.embedding.weight",),
    ),
    model(
        "LightGCN, scores of edges",
        lambda m, edge_index: m.layer(edge_index),
        lambda: {"layer": zoo.LightGCN(NODES, H, 2, alpha=0.3)},
        node_parameters=("layer.embedding.weight",),
    ),
    model(
        "LightGCN, embeddings on every rank",
        lambda m, edge_index: m.layer.get_embedding(edge_index),
        lambda: {"layer": zoo.LightGCN(NODES, H, 2)},
    ),
    model(
        "RGCNConv, weights of nodes",
        lambda m, edge_index, edge_type: m.layer(None, edge_index, edge_type),
        lambda: {"layer": pyg.RGCNConv(NODES, H, RELATIONS)},
    ),
    model(
        "embeddings of nodes",
        lambda m, edge_index: m.conv(m.table.weight, edge_index),
        lambda: {"conv": pyg.SAGEConv(F, H), "table": nn.Embedding(NODES, F)},
        node_parameters=("table.weight",),
    ),
    model(
        "LightGCN's propagation",
        lambda m, x, edge_index: sum((0.3 * h for h in _lightgcn(m, x, edge_index)), 0.5 * x),
        lambda: {"convs": nn.ModuleList(pyg.LGConv() for _ in range(2))},
    ),
]


def _lightgcn(m: Any, x: Tensor, edge_index: Tensor) -> list[Tensor]:
    layers = []
    for conv in m.convs:
        x = conv(x, edge_index)
        layers.append(x)
    return layers


def _molecule(m: Any, z: Tensor, pos: Tensor, batch: Tensor) -> Any:
    return m.layer(z, pos, batch)


GRAPH_LEVEL = [
    model(
        "AttentiveFP",
        lambda m, x, edge_index, edge_attr, batch: m.layer(x, edge_index, edge_attr, batch),
        lambda: {"layer": zoo.AttentiveFP(F, H, C, E, 2, 2)},
    ),
    model(
        "NeuralFingerprint",
        lambda m, x, edge_index, batch: m.layer(x, edge_index, batch, GRAPHS),
        lambda: {"layer": zoo.NeuralFingerprint(F, H, C, 2)},
    ),
    layer(_molecule, "SchNet", lambda: zoo.SchNet(H, H, 2, 4)),
    layer(_molecule, "DimeNet", lambda: zoo.DimeNet(H, C, 1, 2, 2, 2)),
    layer(_molecule, "DimeNet++", lambda: zoo.DimeNetPlusPlus(H, C, 1, 4, 2, 4, 2, 2)),
    layer(_molecule, "GNNFF", lambda: zoo.GNNFF(H, H, 1)),
    layer(_molecule, "ViSNet", lambda: zoo.ViSNet(num_layers=1, hidden_channels=8, num_heads=2)),
]

CONFIGURATIONS: list[Configuration] = [*UNSUPERVISED, *NODE_LEVEL, *GRAPH_LEVEL]
