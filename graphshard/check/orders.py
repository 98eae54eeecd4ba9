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
from graphshard.graph.roles import Member, Role
from graphshard.shard.shard import Shard

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
    """The same graph on a single rank, the nodes and edges of every set in a random order."""
    generator = torch.Generator().manual_seed(seed)
    sizes = whole.sizes
    nodes = {name: torch.randperm(count, generator=generator) for name, count in sizes.nodes.items()}
    edges = {name: torch.randperm(count, generator=generator) for name, count in sizes.edges.items()}
    place = {name: order.argsort() for name, order in nodes.items()}

    def moved(value: Tensor, member: Member) -> Tensor:
        if member.role is Role.NODE:
            return value[nodes[member.of]]
        if member.role is Role.EDGE:
            return value[edges[member.of]]
        if member.role.is_index:
            ends = whole.schema.edge_set(member.of)
            own = value[:, edges[member.of]]
            return torch.stack([place[ends.source][own[0]], place[ends.destination][own[1]]])
        if member.role is Role.INDEX:
            return place[whole.schema.edge_set(member.of).source][value[edges[member.of]]]
        if member.role is Role.ADJACENCY:
            index = place[""][value.indices()[:, edges[""]]]
            return torch.sparse_coo_tensor(index, value.values()[edges[""]], value.shape, is_coalesced=True)
        return value

    return replace(
        whole,
        node_sets={
            name: replace(found, node_ids=dict.fromkeys(found.plans, nodes[name]))
            for name, found in whole.node_sets.items()
        },
        edge_sets={name: replace(found, edge_ids=edges[name]) for name, found in whole.edge_sets.items()},
        tensors={name: moved(value, whole.members[name]) for name, value in whole.tensors.items()},
    )
