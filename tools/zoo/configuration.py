"""One configuration of the zoo: a model, the mode it runs in, and the graphs it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

FEATURES, HIDDEN, CLASSES, EDGE_FEATURES = 5, 4, 3, 3
"""Columns of x, of what a layer gives, of the logits, and of edge_attr."""


@dataclass(frozen=True)
class Configuration:
    """A model that is compared on simulated ranks with itself on one machine.

    Attributes:
        name: unique in the zoo; what the record and the tables call it.
        make: makes the model; its forward names the tensors of :mod:`graphshard.tools.zoo.graphs`.
        training: the mode it runs in; False where training makes no sense.
        edges: "any"; "sorted" by destination, as some aggregations ask for; "four" in-edges of every node,
            sorted, as in a mesh of triangles.
        node_parameters: names of parameters that hold one row for each node.
    """

    name: str
    make: Callable[..., Any]
    training: bool = True
    edges: str = "any"
    node_parameters: tuple[str, ...] = ()


def module(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """A module with this forward, whose first parameter is the module; ``parts`` become its attributes."""
    made: nn.Module = type("Model", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def layer(forward: Callable[..., Any], name: str, make: Callable[..., Any], **options: Any) -> Configuration:
    """A configuration of one layer: ``forward(m, ...)`` calls ``m.layer``."""
    return Configuration(name, lambda: module(forward, layer=make()), **options)


def model(name: str, forward: Callable[..., Any], parts: Callable[..., Any], **options: Any) -> Configuration:
    """A configuration of a model written out: ``parts()`` are the attributes that ``forward(m, ...)`` uses."""
    return Configuration(name, lambda: module(forward, **parts()), **options)


def mlp(features: int, out: int, hidden: int = 6) -> nn.Module:
    """Two linear layers with tanh, which has no kinks, between them."""
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, out))
