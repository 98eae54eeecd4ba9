"""``torch_geometric.nn.norm`` and PyTorch's own norms and activations, with and without ``batch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import Configuration, module
from graphshard.tools.zoo.graphs import GRAPHS, RELATIONS

WIDTH = 6


def _rows(m: Any, x: Tensor) -> Any:
    return m.layer(m.lin(x)).tanh()


def _batch(m: Any, x: Tensor, batch: Tensor) -> Any:
    return m.layer(m.lin(x), batch).tanh()


def _sized(m: Any, x: Tensor, batch: Tensor) -> Any:
    return m.layer(m.lin(x), batch, m.graphs).tanh()


def _types(m: Any, x: Tensor, node_type: Tensor) -> Any:
    return m.layer(m.lin(x), node_type).tanh()


def _message(m: Any, x: Tensor, x0: Tensor) -> Any:
    return m.layer(m.lin(x), torch.cat([x0, x0[:, :2].tanh()], 1)).tanh()


def _norm(
    forward: Callable[..., Any], name: str, make: Callable[..., Any], *, training: bool = True
) -> Configuration:
    """A norm after a linear layer and before a nonlinearity."""
    return Configuration(
        name,
        lambda: module(forward, graphs=GRAPHS, lin=nn.Linear(F, WIDTH), layer=make()),
        training=training,
    )


NORMS: dict[str, Callable[..., Any]] = {
    "InstanceNorm": lambda: pyg.InstanceNorm(WIDTH),
    "InstanceNorm, affine, tracked": lambda: pyg.InstanceNorm(WIDTH, affine=True, track_running_stats=True),
    "LayerNorm, graph": lambda: pyg.LayerNorm(WIDTH),
    "LayerNorm, node": lambda: pyg.LayerNorm(WIDTH, mode="node"),
    "GraphNorm": lambda: pyg.GraphNorm(WIDTH),
    "GraphSizeNorm": pyg.GraphSizeNorm,
    "PairNorm": pyg.PairNorm,
    "PairNorm, individually": lambda: pyg.PairNorm(scale_individually=True),
    "MeanSubtractionNorm": pyg.MeanSubtractionNorm,
}
"""These take ``batch`` and ``batch_size``."""

PLAIN: dict[str, Callable[..., Any]] = {
    "BatchNorm": lambda: pyg.BatchNorm(WIDTH),
    "BatchNorm, one row": lambda: pyg.BatchNorm(WIDTH, allow_single_element=True),
    "BatchNorm, no running statistics": lambda: pyg.BatchNorm(WIDTH, track_running_stats=False),
    "BatchNorm, cumulative": lambda: pyg.BatchNorm(WIDTH, momentum=None),
    "DiffGroupNorm": lambda: pyg.DiffGroupNorm(WIDTH, groups=3),
    "torch BatchNorm1d": lambda: nn.BatchNorm1d(WIDTH),
    "torch BatchNorm1d, not affine": lambda: nn.BatchNorm1d(WIDTH, affine=False, momentum=0.3),
    "torch LayerNorm": lambda: nn.LayerNorm(WIDTH),
    "torch GroupNorm": lambda: nn.GroupNorm(3, WIDTH),
    "torch RMSNorm": lambda: nn.RMSNorm(WIDTH),
}

ACTIVATIONS = (
    *("ReLU", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid", "Softplus"),
    *("Softsign", "Hardtanh", "Hardswish", "LogSigmoid", "Tanhshrink"),
)

CONFIGURATIONS: list[Configuration] = [
    *(_norm(_rows, name, make) for name, make in PLAIN.items()),
    *(_norm(_rows, f"{name}, eval", PLAIN[name], training=False) for name in ("BatchNorm", "DiffGroupNorm")),
    *(_norm(_rows, name, make) for name, make in NORMS.items()),
    *(_norm(_sized, f"{name}, batch_size", make) for name, make in NORMS.items()),
    *(_norm(_batch, f"{name}, batch", make) for name, make in NORMS.items()),
    _norm(_types, "HeteroBatchNorm", lambda: pyg.HeteroBatchNorm(WIDTH, RELATIONS)),
    _norm(_types, "HeteroBatchNorm, eval", lambda: pyg.HeteroBatchNorm(WIDTH, RELATIONS), training=False),
    _norm(_types, "HeteroLayerNorm", lambda: pyg.HeteroLayerNorm(WIDTH, RELATIONS)),
    _norm(_message, "MessageNorm", pyg.MessageNorm),
    _norm(_message, "MessageNorm, learned", lambda: pyg.MessageNorm(learn_scale=True)),
    *(_norm(_rows, f"torch {name}", getattr(nn, name)) for name in ACTIVATIONS),
    _norm(_rows, "torch Softmax", lambda: nn.Softmax(1)),
    _norm(_rows, "torch GLU", nn.GLU),
    _norm(_rows, "torch Dropout", lambda: nn.Dropout(0.4)),
    _norm(_rows, "torch AlphaDropout", lambda: nn.AlphaDropout(0.4)),
]
