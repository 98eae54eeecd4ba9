"""expand_scatters: reductions into graphs, or by source, from sums into zeros and plain extremes."""

from __future__ import annotations

import torch
from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.expand_scatters import ExpandScatters


def _sums(self, x: Tensor, z: Tensor) -> Tensor:
    from_zeros = x.new_zeros(4, 5).index_add(0, z, x)
    return from_zeros + self.weight[:5].expand(4, 5).index_add(0, z, x)


def test_a_base_counts_once_and_zeros_need_nothing() -> None:
    program = check_pass(
        model_of(_sums),
        [],
        ExpandScatters(),
        "new_zeros index_add slice expand zeros_like index_add add add",
        edits=1,
    )
    scattered = next(n for n in program.graph.nodes if n.name == "index_add")
    assert str(scattered.meta["placement"]) == "Partial(sum)"


def _maximum(self, x: Tensor, z: Tensor) -> Tensor:
    index = z.view(-1, 1).expand(-1, 5)
    return x.new_zeros(4, 5).scatter_reduce(0, index, x, "amax")


def test_a_maximum_counts_the_ties_of_all_ranks() -> None:
    check_pass(
        model_of(_maximum),
        [],
        ExpandScatters(),
        "view expand new_zeros detach detach scatter_extreme maximum gather eq _to_copy eq _to_copy "
        "zeros_like scatter_add add gather div zero_of mul zeros_like scatter_add add",
        edits=1,
    )


def _mean_of_targets(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    index = src.view(-1, 1).expand(-1, 5)
    return torch.zeros_like(x).scatter_reduce(0, index, x[dst], "mean", include_self=False)


def test_a_mean_by_source_is_a_sum_and_a_count() -> None:
    check_pass(
        model_of(_mean_of_targets),
        [],
        ExpandScatters(),
        "unbind getitem getitem view expand zeros_like index zeros_like scatter_add ones_like zeros_like "
        "scatter_add clamp_min div gt where",
        edits=1,
    )


def _local(self, x: Tensor, edge_index: Tensor) -> Tensor:
    index = edge_index[1].view(-1, 1).expand(-1, 5)
    return x.scatter_reduce(0, index, x[edge_index[0]], "amax")


def test_by_destination_nothing_changes() -> None:
    check_pass(
        model_of(_local),
        [],
        ExpandScatters(),
        "select view expand select index scatter_reduce",
        edits=0,
    )
