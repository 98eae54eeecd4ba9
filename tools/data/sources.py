"""Graphs by name for the command line: ``karate``, ``sbm:nodes=1000``, ``planetoid:Cora?root=data``, a file.

A spec is ``kind[:argument][?option=value&option=value]``. Every graph comes with float32 ``x [N, F]``, int64
``edge_index [2, E]``, int64 ``y [N]`` and bool ``train_mask``, ``val_mask``, ``test_mask`` ``[N]``.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from graphshard.errors import DataError, PartitionError
from graphshard.graph.checks import sorted_unique
from graphshard.graph.data import GraphData
from graphshard.tools.data.files import Options, parse_options, read_npz, read_planetoid, read_torch
from graphshard.tools.data.node_task import node_task, random_split


def load_data(spec: str) -> GraphData:
    """Make or read the graph that ``spec`` names.

    - ``karate``: Zachary's club; 2 classes, one-hot features, 3 known members of each class.
    - ``digits[:k=10,seed=0]``: 1797 images of digits, each joined to its k nearest.
    - ``sbm[:nodes=1000,degree=8,classes=4,features=16,homophily=0.8,seed=0]``: a stochastic block model.
    - ``planetoid:Cora?root=PATH``: the raw files in ``PATH/Cora/raw``, with their split.
    - ``PATH.pt[?seed=0&trust=0]``: a PyG ``Data`` or a dict of tensors; ``trust=1`` lets the file run code.
    - ``PATH.npz[?seed=0]``: arrays ``edge_index`` and ``y``; if there, ``x``, ``split`` (0 train, 1 val,
      2 test) or the three masks, ``edge_weight``, ``edge_attr``, ``edge_type`` and ``classes`` (their names).
      Other arrays are left out.

    Where a file has no split, nodes are drawn 60/20/20 by ``seed``. Where it has no ``x``, the features are
    ``[log(1 + in-degree), log(1 + out-degree), 1]``.

    Returns:
        The graph, checked, with ``num_classes`` set.

    Raises:
        DataError: the spec, an option or the content is not valid, or an optional package is missing.
    """
    head, _, query = spec.partition("?")
    kind, _, argument = head.partition(":")
    if head.endswith((".pt", ".npz")):
        reader: Callable[[Options], GraphData] = read_npz if head.endswith(".npz") else read_torch
        argument, pairs = head, query.split("&")
    elif kind in _SOURCES:
        reader = _SOURCES[kind]
        pairs = query.split("&") if kind == "planetoid" else [*query.split("&"), *argument.split(",")]
    else:
        known = ", ".join(_SOURCES)
        raise DataError(f"there is no data source {spec!r}: use {known}, or a file that ends in .pt or .npz")
    options = parse_options(spec, argument, pairs)
    try:
        return reader(options)
    except PartitionError as error:
        raise DataError(f"{spec}: {error}") from error


def _karate(options: Options) -> GraphData:
    """Labels are the clubs; the first three members of each are known, all others are to be told."""
    options.read()
    club = nx.karate_club_graph()
    edges = torch.tensor(list(club.edges()), dtype=torch.int64).t()
    y = torch.tensor([int(club.nodes[node]["club"] != "Mr. Hi") for node in club])
    train = torch.zeros(len(y), dtype=torch.bool)
    for label in (0, 1):
        train[(y == label).nonzero().flatten()[:3]] = True
    masks = {"train_mask": train, "val_mask": torch.zeros_like(train), "test_mask": ~train}
    return node_task("karate", torch.eye(len(y)), torch.cat([edges, edges.flip(0)], dim=1), y, masks)


def _digits(options: Options) -> GraphData:
    """Each image is joined, both ways, to the ``k`` images nearest to it."""
    k, seed = options.read(k=10, seed=0)
    try:
        from sklearn.datasets import load_digits
        from sklearn.neighbors import kneighbors_graph
    except ImportError:
        raise DataError("digits needs scikit-learn: pip install graphshard[digits]") from None
    pixels, labels = load_digits(return_X_y=True)
    if not 1 <= k < len(pixels):
        raise DataError(f"option 'k' of digits must be in 1..{len(pixels) - 1}, not {k}")
    pairs = kneighbors_graph(pixels, k, include_self=False).tocoo()
    edges = torch.from_numpy(np.stack([pairs.col, pairs.row]).astype(np.int64))
    edges = _both_directions(edges, len(pixels))
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    return node_task("digits", x, edges, y, random_split(len(y), seed))


def _sbm(options: Options) -> GraphData:
    """An edge's ends share a class with probability ``homophily``; features are class centres plus noise.

    ``degree`` is the mean number of neighbours before parallel edges and self loops are removed.
    """
    nodes, degree, classes, features, homophily, seed = options.read(
        nodes=1000, degree=8.0, classes=4, features=16, homophily=0.8, seed=0
    )
    if not 1 <= classes <= nodes or features < 1 or degree < 0 or not 0 <= homophily <= 1:
        raise DataError(
            f"{options.spec!r} needs 1 <= classes <= nodes, features >= 1, degree >= 0, homophily 0..1"
        )
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(nodes) % classes  # members of class c are c, c + classes, ...: drawn without a table
    count = round(nodes * degree / 2)
    source = torch.randint(nodes, (count,), generator=random)
    other = torch.randint(max(classes - 1, 1), (count,), generator=random) + (classes > 1)
    stays = torch.rand(count, generator=random) < homophily
    label = torch.where(stays, y[source], (y[source] + other) % classes)
    members = (nodes - label + classes - 1) // classes
    place = (torch.rand(count, generator=random, dtype=torch.float64) * members).long()
    edges = _both_directions(torch.stack([source, label + classes * place]), nodes)
    centres = torch.randn(classes, features, generator=random)
    x = centres[y] + torch.randn(nodes, features, generator=random)
    return node_task("sbm", x, edges, y, random_split(nodes, seed))


def _both_directions(edges: Tensor, num_nodes: int) -> Tensor:
    """Each pair once in each direction, without self loops, sorted by source."""
    source, destination = edges[:, edges[0] != edges[1]]
    keys = sorted_unique(torch.cat([source * num_nodes + destination, destination * num_nodes + source]))
    return torch.stack([keys // num_nodes, keys % num_nodes])


_SOURCES: dict[str, Callable[[Options], GraphData]] = {
    "karate": _karate,
    "digits": _digits,
    "sbm": _sbm,
    "planetoid": read_planetoid,
}
