"""``torch_geometric.nn.conv`` without attention, without features or types of edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch_geometric import nn as pyg

from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.configuration import Configuration, layer, mlp
from graphshard.tools.zoo.forwards import (
    edges,
    hidden,
    hidden_weights,
    initial,
    initial_weights,
    split,
    twice_split,
    weights,
)

BACK = "target_to_source"
SAGE_AGGREGATIONS = (
    *("sum", "mean", "max", "min", "mul", "std", "var", "median"),
    *("softmax", "powermean", "VariancePreserving"),
)
DEGREES = torch.tensor([2, 3, 5, 6, 4, 2, 1])
SCALERS = ["identity", "amplification", "attenuation", "linear", "inverse_linear"]

GCN = [
    layer(edges, "GCNConv", lambda: pyg.GCNConv(F, H)),
    layer(weights, "GCNConv, edge_weight", lambda: pyg.GCNConv(F, H)),
    layer(weights, "GCNConv, improved", lambda: pyg.GCNConv(F, H, improved=True)),
    layer(edges, "GCNConv, not normalized", lambda: pyg.GCNConv(F, H, normalize=False)),
    layer(weights, "GCNConv, not normalized, edge_weight", lambda: pyg.GCNConv(F, H, normalize=False)),
    layer(edges, "GCNConv, no self loops", lambda: pyg.GCNConv(F, H, add_self_loops=False)),
    layer(weights, "GCNConv, no self loops, edge_weight", lambda: pyg.GCNConv(F, H, add_self_loops=False)),
    layer(edges, "GCNConv, no bias", lambda: pyg.GCNConv(F, H, bias=False)),
    layer(edges, "GCNConv, target_to_source", lambda: pyg.GCNConv(F, H, flow=BACK)),
    layer(weights, "GCNConv, target_to_source, edge_weight", lambda: pyg.GCNConv(F, H, flow=BACK)),
    layer(edges, "GCNConv, max", lambda: pyg.GCNConv(F, H, aggr="max")),
    layer(edges, "GCNConv, decomposed", lambda: pyg.GCNConv(F, H, decomposed_layers=2)),
]

SAGE = [
    *(
        layer(edges, f"SAGEConv, {aggr}", lambda aggr=aggr: pyg.SAGEConv(F, H, aggr=aggr))
        for aggr in SAGE_AGGREGATIONS
    ),
    layer(edges, "SAGEConv, lstm", lambda: pyg.SAGEConv(F, H, aggr="lstm"), edges="sorted"),
    layer(
        edges,
        "SAGEConv, softmax learned",
        lambda: pyg.SAGEConv(F, H, aggr="softmax", aggr_kwargs={"learn": True}),
    ),
    layer(edges, "SAGEConv, mean+max+std", lambda: pyg.SAGEConv(F, H, aggr=["mean", "max", "std"])),
    layer(edges, "SAGEConv, sum+min+median", lambda: pyg.SAGEConv(F, H, aggr=["sum", "min", "median"])),
    layer(edges, "SAGEConv, projected", lambda: pyg.SAGEConv(F, H, project=True)),
    layer(edges, "SAGEConv, normalized", lambda: pyg.SAGEConv(F, H, normalize=True)),
    layer(edges, "SAGEConv, no root weight", lambda: pyg.SAGEConv(F, H, root_weight=False)),
    layer(edges, "SAGEConv, no bias", lambda: pyg.SAGEConv(F, H, bias=False)),
    layer(edges, "SAGEConv, target_to_source", lambda: pyg.SAGEConv(F, H, flow=BACK)),
    layer(edges, "SAGEConv, max, target_to_source", lambda: pyg.SAGEConv(F, H, aggr="max", flow=BACK)),
]

SUMS = [
    *(
        layer(edges, f"SimpleConv, {aggr}", lambda aggr=aggr: pyg.SimpleConv(aggr))
        for aggr in ("sum", "mean", "max", "min", "mul")
    ),
    *(
        layer(weights, f"SimpleConv, root {root}", lambda root=root: pyg.SimpleConv("mean", root))
        for root in ("sum", "cat", "self_loop")
    ),
    layer(edges, "SimpleConv, max, target_to_source", lambda: pyg.SimpleConv("max", flow=BACK)),
    *(
        layer(weights, f"GraphConv, {aggr}", lambda aggr=aggr: pyg.GraphConv(F, H, aggr=aggr))
        for aggr in ("add", "mean", "max")
    ),
    layer(edges, "GraphConv, target_to_source", lambda: pyg.GraphConv(F, H, flow=BACK)),
    layer(edges, "GINConv", lambda: pyg.GINConv(mlp(F, H))),
    layer(edges, "GINConv, train_eps", lambda: pyg.GINConv(mlp(F, H), eps=0.1, train_eps=True)),
    layer(
        edges,
        "GINConv, batch norm",
        lambda: pyg.GINConv(nn.Sequential(nn.Linear(F, H), nn.BatchNorm1d(H), nn.ReLU(), nn.Linear(H, H))),
    ),
    layer(edges, "GINConv, max", lambda: pyg.GINConv(mlp(F, H), aggr="max")),
    layer(edges, "EdgeConv, max", lambda: pyg.EdgeConv(mlp(2 * F, H))),
    layer(edges, "EdgeConv, mean", lambda: pyg.EdgeConv(mlp(2 * F, H), aggr="mean")),
    layer(edges, "EdgeConv, target_to_source", lambda: pyg.EdgeConv(mlp(2 * F, H), aggr="add", flow=BACK)),
    layer(weights, "GatedGraphConv", lambda: pyg.GatedGraphConv(F, 2)),
    layer(edges, "GatedGraphConv, max, wider", lambda: pyg.GatedGraphConv(F + 2, 2, aggr="max")),
    layer(weights, "LEConv", lambda: pyg.LEConv(F, H)),
    layer(edges, "MFConv", lambda: pyg.MFConv(F, H, max_degree=4)),
    layer(edges, "ClusterGCNConv", lambda: pyg.ClusterGCNConv(F, H, diag_lambda=0.5)),
    layer(weights, "LGConv", pyg.LGConv),
    layer(edges, "LGConv, not normalized", lambda: pyg.LGConv(normalize=False)),
    layer(split, "SignedConv, first", lambda: pyg.SignedConv(F, H, first_aggr=True)),
    layer(twice_split, "SignedConv, later", lambda: pyg.SignedConv(F, H, first_aggr=False)),
    layer(edges, "WLConvContinuous", pyg.WLConvContinuous),
    layer(weights, "WLConvContinuous, edge_weight", pyg.WLConvContinuous),
    layer(edges, "MeshCNNConv", lambda: pyg.MeshCNNConv(F, H), edges="four"),
    layer(
        edges,
        "DirGNNConv, GCN",
        lambda: pyg.DirGNNConv(pyg.GCNConv(F, H), alpha=0.3),
    ),
    layer(edges, "DirGNNConv, SAGE max", lambda: pyg.DirGNNConv(pyg.SAGEConv(F, H, aggr="max"))),
    layer(edges, "DirGNNConv, GAT", lambda: pyg.DirGNNConv(pyg.GATConv(F, H, add_self_loops=False))),
    layer(edges, "DirGNNConv, no root", lambda: pyg.DirGNNConv(pyg.GINConv(mlp(F, H)), root_weight=False)),
]


class _Layers(nn.Module):
    """DNAConv wants ``[N, layers, channels]``."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.stack([x, x.tanh()], 1), *rest)  # type: ignore[no-any-return]


def _dna(**options: Any) -> nn.Module:
    return _Layers(pyg.DNAConv(H, **options))


POWERS = [
    *(
        layer(weights, f"ChebConv, {kind}", lambda kind=kind: pyg.ChebConv(F, H, 3, normalization=kind))
        for kind in ("sym", "rw")
    ),
    layer(edges, "ChebConv, K=1", lambda: pyg.ChebConv(F, H, 1)),
    layer(weights, "TAGConv", lambda: pyg.TAGConv(F, H, K=3)),
    layer(edges, "TAGConv, not normalized", lambda: pyg.TAGConv(F, H, K=2, normalize=False)),
    layer(edges, "SGConv", lambda: pyg.SGConv(F, H, K=2)),
    layer(weights, "SGConv, edge_weight, no self loops", lambda: pyg.SGConv(F, H, add_self_loops=False)),
    layer(weights, "SSGConv", lambda: pyg.SSGConv(F, H, alpha=0.1, K=3)),
    layer(edges, "APPNP", lambda: pyg.APPNP(3, 0.1)),
    layer(weights, "APPNP, edge_weight, no self loops", lambda: pyg.APPNP(3, 0.1, add_self_loops=False)),
    layer(edges, "APPNP, dropout", lambda: pyg.APPNP(3, 0.1, dropout=0.5)),
    layer(edges, "ARMAConv", lambda: pyg.ARMAConv(F, H, num_stacks=2, num_layers=2)),
    layer(
        weights,
        "ARMAConv, shared weights, dropout",
        lambda: pyg.ARMAConv(F, H, num_stacks=2, num_layers=2, shared_weights=True, dropout=0.3),
    ),
    layer(edges, "MixHopConv", lambda: pyg.MixHopConv(F, H, powers=[0, 1, 2])),
    layer(weights, "MixHopConv, edge_weight", lambda: pyg.MixHopConv(F, H, add_self_loops=False)),
    layer(initial, "GCN2Conv", lambda: pyg.GCN2Conv(H, alpha=0.1, theta=0.5, layer=1)),
    layer(
        initial_weights,
        "GCN2Conv, separate weights",
        lambda: pyg.GCN2Conv(H, alpha=0.1, shared_weights=False),
    ),
    layer(edges, "AntiSymmetricConv", lambda: pyg.AntiSymmetricConv(F, num_iters=2)),
    layer(
        edges,
        "AntiSymmetricConv, SAGE",
        lambda: pyg.AntiSymmetricConv(F, phi=pyg.SAGEConv(F, F), act="relu"),
    ),
    layer(edges, "EGConv", lambda: pyg.EGConv(F, H, num_heads=2, num_bases=2)),
    layer(
        edges,
        "EGConv, all aggregators",
        lambda: pyg.EGConv(
            F, H, aggregators=["sum", "mean", "symnorm", "min", "max", "var", "std"], num_heads=2, num_bases=2
        ),
    ),
    layer(hidden, "DNAConv, one layer", _dna),
    layer(hidden_weights, "DNAConv, groups", lambda: _dna(heads=2, groups=2, dropout=0.3)),
]


CONFIGURATIONS: list[Configuration] = [*GCN, *SAGE, *SUMS, *POWERS]
