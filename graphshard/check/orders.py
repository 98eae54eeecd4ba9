"""How much the single machine differs from itself when nodes and edges are listed in another order.

That is what a partition changes: every rank sums the same terms, in another order. In exact arithmetic the
order does not matter; in float32 the spread between orders is the rounding error to expect, whatever the model
(a softmax or a batch norm amplifies both alike). A distributed run is one more order, so it is held to a small
multiple of the largest spread over a few random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from graphshard.check.compare import Key, compare
from graphshard.check.evaluate import Case, run_program
from graphshard.check.probe import Probed, Value
from graphshard.roles import Role
from graphshard.shard import Shard

ORDERS = 4
"""How many random orders are tried."""


def order_spread(
    probed: Probed,
    model_on: Callable[[Shard], nn.Module],
    make_case: Callable[[Probed, Shard], Case],
    whole: Shard,
    reference: Mapping[Key, Value],
) -> dict[Key, float]:
    """The largest absolute difference of each value from the reference, over a few orders of the graph."""
    largest: dict[Key, float] = {}
    for seed in range(ORDERS):
        other = reordered(whole, seed)
        values = run_program(model_on(other), make_case(probed, other), "")
        for key, difference in compare(values, reference).items():
            largest[key] = max(largest.get(key, 0.0), difference.largest)
    return largest


def reordered(whole: Shard, seed: int) -> Shard:
    """The same graph on a single rank, its nodes and edges in a random order."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randperm(whole.num_nodes, generator=generator)
    edges = torch.randperm(whole.num_edges, generator=generator)
    place = torch.empty_like(nodes)
    place[nodes] = torch.arange(whole.num_nodes)

    def moved(value: Tensor, role: Role) -> Tensor:
        if role is Role.NODE:
            return value[nodes]
        if role is Role.EDGE:
            return value[edges]
        if role is Role.EDGE_INDEX:
            return place[value[:, edges]]
        if role is Role.ADJACENCY:
            index = place[value.indices()[:, edges]]
            return torch.sparse_coo_tensor(index, value.values()[edges], value.shape, is_coalesced=True)
        return value

    tensors = {name: moved(value, whole.roles[name]) for name, value in whole.tensors.items()}
    return replace(whole, node_ids=nodes, edge_ids=edges, tensors=tensors)
