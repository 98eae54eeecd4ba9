"""``torch_geometric.nn.aggr``: messages to their destinations, and nodes to their graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn import aggr

from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.configuration import Configuration, layer, mlp
from graphshard.tools.zoo.convs import DEGREES, SCALERS
from graphshard.tools.zoo.graphs import GRAPHS

AGGREGATIONS: dict[str, Callable[..., Any]] = {
    "Sum": aggr.SumAggregation,
    "Mean": aggr.MeanAggregation,
    "Max": aggr.MaxAggregation,
    "Min": aggr.MinAggregation,
    "Mul": aggr.MulAggregation,
    "Var": aggr.VarAggregation,
    "Var, semi_grad": lambda: aggr.VarAggregation(semi_grad=True),
    "Std": aggr.StdAggregation,
    "Softmax": lambda: aggr.SoftmaxAggregation(0.5),
    "Softmax, learned": lambda: aggr.SoftmaxAggregation(learn=True, channels=H),
    "Softmax, semi_grad": lambda: aggr.SoftmaxAggregation(semi_grad=True),
    "PowerMean": lambda: aggr.PowerMeanAggregation(2.0),
    "PowerMean, learned": lambda: aggr.PowerMeanAggregation(learn=True, channels=H),
    "Median": aggr.MedianAggregation,
    "Quantile": lambda: aggr.QuantileAggregation([0.25, 0.75]),
    "LSTM": lambda: aggr.LSTMAggregation(H, H),
    "GRU": lambda: aggr.GRUAggregation(H, H),
    "Set2Set": lambda: aggr.Set2Set(H, 2),
    "DegreeScaler": lambda: aggr.DegreeScalerAggregation(["mean", "max"], SCALERS[:3], DEGREES),
    "Sort": lambda: aggr.SortAggregation(3),
    "GraphMultisetTransformer": lambda: aggr.GraphMultisetTransformer(H, 2, heads=2),
    "Attentional": lambda: aggr.AttentionalAggregation(mlp(H, 1), nn.Linear(H, H)),
    "Equilibrium": lambda: aggr.EquilibriumAggregation(H, H, [6], grad_iter=2),
    "MLP": lambda: aggr.MLPAggregation(H, H, 20, num_layers=1),
    "DeepSets": lambda: aggr.DeepSetsAggregation(mlp(H, H), nn.Linear(H, H)),
    "SetTransformer": lambda: aggr.SetTransformerAggregation(H, heads=2),
    "LCM": lambda: aggr.LCMAggregation(H, H),
    "VariancePreserving": aggr.VariancePreservingAggregation,
    "PatchTransformer": lambda: aggr.PatchTransformerAggregation(H, H, patch_size=2, hidden_channels=H),
    "Multi, cat": lambda: aggr.MultiAggregation(["sum", "max", "std"]),
    "Multi, sum": lambda: aggr.MultiAggregation(["mean", "min"], mode="sum"),
    "Multi, attention": lambda: aggr.MultiAggregation(
        ["mean", "max"], mode="attn", mode_kwargs={"in_channels": H, "out_channels": H, "num_heads": 2}
    ),
    "Multi, projected": lambda: aggr.MultiAggregation(
        ["mean", "sum"], mode="proj", mode_kwargs={"in_channels": H, "out_channels": H}
    ),
}


def _messages(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
    return m.layer(x0[edge_index[0]].tanh() + x0[edge_index[1]], edge_index[1], dim_size=x0.size(0))


def _graphs(m: Any, x0: Tensor, batch: Tensor) -> Any:
    return m.layer(x0, batch, dim_size=GRAPHS)


def _counted(m: Any, x0: Tensor, batch: Tensor) -> Any:
    return m.layer(x0, batch)


def _one_graph(m: Any, x0: Tensor) -> Any:
    return m.layer(x0)


ONE_GRAPH = ("Sum", "Mean", "Max", "Std", "Softmax", "Set2Set", "Attentional")
COUNTED = ("Sum", "Mean", "Max", "Softmax", "Set2Set", "Attentional")

CONFIGURATIONS: list[Configuration] = [
    *(layer(_messages, f"{name} of messages", make, edges="sorted") for name, make in AGGREGATIONS.items()),
    *(layer(_graphs, f"{name} by graph", make) for name, make in AGGREGATIONS.items()),
    *(layer(_counted, f"{name} by graph, graphs counted", AGGREGATIONS[name]) for name in COUNTED),
    *(layer(_one_graph, f"{name} of all nodes", AGGREGATIONS[name]) for name in ONE_GRAPH),
    layer(
        lambda m, x0, edge_index: m.layer(x0, edge_index),
        "SimpleConv, LCM",
        lambda: pyg.SimpleConv(aggr.LCMAggregation(H, H)),
        edges="sorted",
    ),
]
