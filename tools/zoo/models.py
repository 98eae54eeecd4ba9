"""``torch_geometric.nn.models``: the basic GNNs with every option, and the larger models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn import models as zoo

from graphshard.tools.zoo.configuration import CLASSES as C
from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.configuration import Configuration, layer, model
from graphshard.tools.zoo.convs import DEGREES, SCALERS
from graphshard.tools.zoo.forwards import edges, weights
from graphshard.tools.zoo.graphs import GRAPHS

PNA_OPTIONS = {"aggregators": ["mean", "max", "std"], "scalers": SCALERS[:3], "deg": DEGREES}
BASIC: dict[str, Callable[..., Any]] = {
    "GCN": zoo.GCN,
    "GraphSAGE": zoo.GraphSAGE,
    "GIN": zoo.GIN,
    "GAT": zoo.GAT,
    "PNA": lambda *sizes, **options: zoo.PNA(*sizes, **PNA_OPTIONS, **options),
    "EdgeCNN": zoo.EdgeCNN,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "jk last": {"jk": "last"},
    "jk cat": {"jk": "cat", "norm": "layer"},
    "jk max": {"jk": "max", "act": "elu"},
    "jk lstm": {"jk": "lstm"},
    "batch norm, dropout": {"norm": "batch_norm", "dropout": 0.5},
}
"""Options of the basic models, each tried with every one of them."""

NORMS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: name for name in ("instance_norm", "graph_norm", "pair_norm")},  # type: ignore[misc]
    # PyG's resolver gives these a size that they do not take.
    "graph_size_norm": pyg.GraphSizeNorm,
    "mean_subtraction_norm": pyg.MeanSubtractionNorm,
}
ACTS = ("relu", "leaky_relu", "prelu", "gelu", "silu", "tanh", "softplus")


def _batched(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    return m.layer(x, edge_index, batch=batch, batch_size=GRAPHS)


BASICS = [
    *(layer(edges, f"{name} model", lambda make=make: make(F, H, 2, C)) for name, make in BASIC.items()),
    *(
        layer(edges, f"{name} model, {title}", lambda make=make, options=options: make(F, H, 2, C, **options))
        for name, make in BASIC.items()
        for title, options in OPTIONS.items()
    ),
    *(
        layer(edges, f"GCN model, {name}", lambda norm=norm: zoo.GCN(F, H, 2, C, norm=norm()))
        for name, norm in NORMS.items()
    ),
    *(
        layer(_batched, f"GIN model, {name}, batch", lambda norm=norm: zoo.GIN(F, H, 2, C, norm=norm()))
        for name, norm in NORMS.items()
    ),
    *(
        layer(edges, f"GraphSAGE model, {act}", lambda act=act: zoo.GraphSAGE(F, H, 2, C, act=act))
        for act in ACTS
    ),
    layer(edges, "GCN model, act_first", lambda: zoo.GCN(F, H, 2, C, act_first=True, norm="batch_norm")),
    layer(weights, "GCN model, edge_weight", lambda: zoo.GCN(F, H, 2, C)),
    layer(edges, "GCN model, one layer", lambda: zoo.GCN(F, H, 1, C)),
    layer(edges, "GCN model, three layers, no out", lambda: zoo.GCN(F, H, 3)),
    layer(edges, "GCN model, eval", lambda: zoo.GCN(F, H, 2, C, dropout=0.5), training=False),
    layer(
        edges, "GraphSAGE model, eval", lambda: zoo.GraphSAGE(F, H, 2, C, norm="batch_norm"), training=False
    ),
    layer(edges, "GAT model, v2, heads", lambda: zoo.GAT(F, H, 2, C, v2=True, heads=2)),
    layer(edges, "GAT model, dropout of attention", lambda: zoo.GAT(F, H, 2, C, heads=2, dropout=0.5)),
]


def _deep(block: str, **options: Any) -> Any:
    conv = pyg.GENConv(F, F, norm="layer")
    return zoo.DeepGCNLayer(conv, nn.LayerNorm(F), nn.ReLU(), block=block, **options)


def _rev(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
    return m.layer(x0, edge_index)


def _unreversed() -> Any:
    return zoo.GroupAddRev(pyg.GCNConv(H // 2, H // 2), num_groups=2, disable=True)


def _gcn2(m: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    first = x
    for conv in m.convs:
        x = conv(nn.functional.dropout(x, 0.2, m.training), first, edge_index).relu()
    return x


DEEP = [
    *(
        layer(edges, f"DeepGCNLayer, {block}", lambda block=block: _deep(block))
        for block in ("res+", "res", "dense", "plain")
    ),
    layer(edges, "DeepGCNLayer, res+, dropout", lambda: _deep("res+", dropout=0.3)),
    layer(edges, "DeepGCNLayer, checkpointed", lambda: _deep("res+", ckpt_grad=True)),
    layer(_rev, "GroupAddRev", lambda: zoo.GroupAddRev(pyg.GCNConv(H // 2, H // 2), num_groups=2)),
    layer(_rev, "GroupAddRev, disabled", _unreversed),
    model(
        "GCN2 stack",
        lambda m, x, edge_index: m.outlet(_gcn2(m, m.inlet(x).relu(), edge_index)),
        lambda: {
            "inlet": nn.Linear(F, H),
            "outlet": nn.Linear(H, C),
            "convs": nn.ModuleList(pyg.GCN2Conv(H, 0.1, 0.5, i + 1) for i in range(4)),
        },
    ),
    *(
        model(
            f"JumpingKnowledge, {mode}",
            lambda m, x, edge_index: m.jump([m.a(x, edge_index).tanh(), m.b(x, edge_index)]),
            lambda mode=mode: {
                "a": pyg.GCNConv(F, H),
                "b": pyg.SAGEConv(F, H),
                "jump": zoo.JumpingKnowledge(mode, H, 2),
            },
        )
        for mode in ("cat", "max", "lstm")
    ),
    model(
        "Sequential",
        lambda m, x, edge_index: m.layer(x, edge_index),
        lambda: {
            "layer": pyg.Sequential(
                "x, edge_index",
                [
                    (pyg.GCNConv(F, H), "x, edge_index -> x1"),
                    nn.ReLU(inplace=True),
                    (pyg.GATConv(H, H), "x1, edge_index -> x2"),
                    (lambda a, b: torch.cat([a, b], 1), "x1, x2 -> x"),
                    nn.Linear(2 * H, C),
                ],
            )
        },
    ),
]


MLPS = [
    layer(lambda m, x: m.layer(x), "MLP, batch norm", lambda: zoo.MLP([F, 6, C])),
    layer(
        lambda m, x: m.layer(x),
        "MLP, dropout, not plain",
        lambda: zoo.MLP([F, 6, C], dropout=0.3, plain_last=False),
    ),
    layer(
        lambda m, x, batch: m.layer(x, batch, GRAPHS),
        "MLP, graph norm",
        lambda: zoo.MLP([F, 6, C], norm="graph_norm"),
    ),
    layer(
        lambda m, x: m.layer(x),
        "MLP, layer norm, tanh",
        lambda: zoo.MLP([F, 6, C], norm="layer_norm", act="tanh"),
    ),
    layer(edges, "PMLP, train", lambda: zoo.PMLP(F, H, C, 2)),
    layer(edges, "PMLP, eval", lambda: zoo.PMLP(F, H, C, 2), training=False),
]


def _propagate_labels(m: Any, y: Tensor, edge_index: Tensor, mask: Tensor) -> Any:
    return m.layer(y, edge_index, mask)


def _propagate_floats(m: Any, labels: Tensor, edge_index: Tensor, mask: Tensor, edge_weight: Tensor) -> Any:
    return m.layer(labels, edge_index, mask, edge_weight)


def _correct(m: Any, target: Tensor, labels: Tensor, edge_index: Tensor, mask: Tensor) -> Any:
    soft = target.softmax(1)
    return m.layer.smooth(
        m.layer.correct(soft, labels[mask], mask, edge_index), labels[mask], mask, edge_index
    )


LABELS = [
    layer(_propagate_labels, "LabelPropagation", lambda: zoo.LabelPropagation(3, 0.9), training=False),
    layer(
        _propagate_floats,
        "LabelPropagation, soft labels, edge_weight",
        lambda: zoo.LabelPropagation(2, 0.5),
        training=False,
    ),
    layer(_correct, "CorrectAndSmooth", lambda: zoo.CorrectAndSmooth(2, 0.9, 2, 0.8), training=False),
    layer(
        _correct,
        "CorrectAndSmooth, fixed scale",
        lambda: zoo.CorrectAndSmooth(2, 0.9, 2, 0.8, autoscale=False, scale=2.0),
        training=False,
    ),
    model(
        "MaskLabel, add",
        lambda m, x0, y, mask, edge_index: m.conv(m.layer(x0, y, mask), edge_index),
        lambda: {"layer": zoo.MaskLabel(C, H), "conv": pyg.GCNConv(H, C)},
    ),
    model(
        "MaskLabel, concat",
        lambda m, x0, y, mask, edge_index: m.conv(m.layer(x0, y, mask), edge_index),
        lambda: {"layer": zoo.MaskLabel(C, H, "concat"), "conv": pyg.GCNConv(2 * H, C)},
    ),
]

CONFIGURATIONS: list[Configuration] = [*BASICS, *DEEP, *MLPS, *LABELS]
