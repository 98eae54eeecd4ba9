"""Graph-level readouts and ``torch_geometric.nn.pool``: nodes to graphs, nodes to fewer nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn import aggr
from torch_geometric.utils import to_dense_adj

from graphshard.tools.zoo.configuration import CLASSES, Configuration, layer, mlp, model
from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.graphs import GRAPHS

POOLS = {"add": pyg.global_add_pool, "mean": pyg.global_mean_pool, "max": pyg.global_max_pool}


def _classifier(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    """Graph classification: a convolution, a readout, a linear layer."""
    h = m.conv(x, edge_index).tanh()
    return m.lin(m.pool(h, batch, GRAPHS))


def _counting_classifier(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    h = m.conv(x, edge_index).tanh()
    return m.lin(m.pool(h, batch))


def _regressor(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Graph regression with the loss in forward."""
    out = m.lin(m.pool(m.conv(x, edge_index).relu(), batch, GRAPHS))
    return out, nn.functional.mse_loss(out, u[:, :CLASSES])


def _every_layer(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    """GIN's readout of every layer."""
    first = m.conv(x, edge_index).relu()
    second = m.second(first, edge_index).relu()
    pooled = [pyg.global_add_pool(h, batch, GRAPHS) for h in (first, second)]
    return m.lin(torch.cat(pooled, 1))


def _readout(pool: Any) -> dict[str, Any]:
    return {"conv": pyg.GCNConv(F, H), "pool": pool, "lin": nn.Linear(H, CLASSES)}


def _attention() -> nn.Module:
    return _Sized(aggr.AttentionalAggregation(mlp(H, 1), nn.Linear(H, H)))


class _Sized(nn.Module):
    """An aggregation as a readout: the number of graphs is the third argument."""

    def __init__(self, aggregation: nn.Module) -> None:
        super().__init__()
        self.aggregation = aggregation

    def forward(self, x: Tensor, batch: Tensor, size: int | None = None) -> Any:
        return self.aggregation(x, batch, dim_size=size)


GLOBAL = [
    *(
        model(f"global_{name}_pool", _classifier, lambda pool=pool: _readout(pool))
        for name, pool in POOLS.items()
    ),
    *(
        model(f"global_{name}_pool, graphs counted", _counting_classifier, lambda pool=pool: _readout(pool))
        for name, pool in POOLS.items()
    ),
    *(
        model(f"global_{name}_pool, loss", _regressor, lambda pool=pool: _readout(pool))
        for name, pool in POOLS.items()
    ),
    *(
        model(
            f"global_{name}_pool, one graph",
            lambda m, x, edge_index: m.lin(m.pool(m.conv(x, edge_index), None)),
            lambda pool=pool: _readout(pool),
        )
        for name, pool in POOLS.items()
    ),
    model("attention readout", _classifier, lambda: _readout(_attention())),
    model(
        "set2set readout",
        _classifier,
        lambda: _readout(_Sized(aggr.Set2Set(H, 2))) | {"lin": nn.Linear(2 * H, CLASSES)},
    ),
    model(
        "sort readout",
        _classifier,
        lambda: _readout(_Sized(aggr.SortAggregation(3))) | {"lin": nn.Linear(3 * H, CLASSES)},
    ),
    model("median readout", _classifier, lambda: _readout(_Sized(aggr.MedianAggregation()))),
    model("softmax readout", _classifier, lambda: _readout(_Sized(aggr.SoftmaxAggregation(learn=True)))),
    model("variance readout", _classifier, lambda: _readout(_Sized(aggr.VarAggregation()))),
    model(
        "add readout of every layer",
        _every_layer,
        lambda: {
            "conv": pyg.GINConv(mlp(F, H)),
            "second": pyg.GINConv(mlp(H, H)),
            "lin": nn.Linear(2 * H, CLASSES),
        },
    ),
    model(
        "graph's mean given back to its nodes",
        lambda m, x, batch: m.lin(x) - pyg.global_mean_pool(m.lin(x), batch, GRAPHS)[batch],
        lambda: {"lin": nn.Linear(F, H)},
    ),
    model(
        "graph's maximum given back to its nodes",
        lambda m, x, batch: m.lin(x) - pyg.global_max_pool(m.lin(x), batch, GRAPHS)[batch],
        lambda: {"lin": nn.Linear(F, H)},
    ),
    model(
        "graph features given to nodes",
        lambda m, x, batch, u: m.lin(torch.cat([x, u[batch]], 1)),
        lambda: {"lin": nn.Linear(F + H, H)},
    ),
    model(
        "virtual node",
        lambda m, x, edge_index, batch: (
            m.conv(x, edge_index)
            + m.lin(m.embedding.expand(GRAPHS, -1) + pyg.global_add_pool(x, batch, GRAPHS))[batch]
        ),
        lambda: {
            "conv": pyg.GCNConv(F, H),
            "lin": nn.Linear(F, H),
            "embedding": nn.Parameter(torch.ones(1, F)),
        },
    ),
]


def _pool(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    return m.layer(x, edge_index, batch=batch)[0]


def _pool_attributes(m: Any, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor) -> Any:
    return m.layer(x, edge_index, edge_attr, batch)[0]


def _dense(m: Any, x: Tensor, batch: Tensor) -> Any:
    return m.layer(x, batch)[0]


def _max_neighbors(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    """``max_pool_neighbor_x`` without its Data objects."""
    source, destination = edge_index
    return pyg.SimpleConv("max")(x, torch.stack([source, destination])).maximum(m.lin(x).mean())


def _unpool(m: Any, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    out, _, _, info = m.layer(x, edge_index, batch)
    return m.layer.unpool(out, info)[0]


def _adjacency(edge_index: Tensor, nodes: int) -> Tensor:
    return to_dense_adj(edge_index, max_num_nodes=nodes)  # type: ignore[no-any-return]


def _diff_pool(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    return pyg.dense_diff_pool(x.unsqueeze(0), _adjacency(edge_index, x.size(0)), m.lin(x).unsqueeze(0))[:2]


def _mincut(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    return pyg.dense_mincut_pool(x.unsqueeze(0), _adjacency(edge_index, x.size(0)), m.lin(x).unsqueeze(0))


def _dmon(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    return m.layer(x.unsqueeze(0), _adjacency(edge_index, x.size(0)))


COARSENING = [
    layer(_pool, "TopKPooling", lambda: pyg.TopKPooling(F, ratio=0.5)),
    layer(_pool, "TopKPooling, min_score", lambda: pyg.TopKPooling(F, min_score=0.2)),
    layer(_pool_attributes, "TopKPooling, edge_attr", lambda: pyg.TopKPooling(F, ratio=3)),
    layer(_pool, "SAGPooling", lambda: pyg.SAGPooling(F)),
    layer(_pool, "SAGPooling, GAT, min_score", lambda: pyg.SAGPooling(F, GNN=pyg.GATConv, min_score=0.2)),
    layer(_pool, "ASAPooling", lambda: pyg.ASAPooling(F)),
    layer(_pool, "EdgePooling", lambda: pyg.EdgePooling(F)),
    layer(_unpool, "EdgePooling, unpooled", lambda: pyg.EdgePooling(F)),
    layer(_pool, "ClusterPooling", lambda: pyg.ClusterPooling(F)),
    layer(_dense, "MemPooling", lambda: pyg.MemPooling(F, H, heads=2, num_clusters=2)),
    model("neighbours' maximum", _max_neighbors, lambda: {"lin": nn.Linear(F, 1)}),
    model("dense_diff_pool", _diff_pool, lambda: {"lin": nn.Linear(F, 3)}),
    model("dense_mincut_pool", _mincut, lambda: {"lin": nn.Linear(F, 3)}),
    model("DMoNPooling", _dmon, lambda: {"layer": pyg.DMoNPooling(F, 3)}),
]


CONFIGURATIONS: list[Configuration] = [*GLOBAL, *COARSENING]
