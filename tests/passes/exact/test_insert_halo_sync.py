"""insert_halo_sync: one sync for a value that edges read by source, none for a gather by destination."""

from __future__ import annotations

import torch
from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.insert_halo_sync import InsertHaloSync


def _aggregate(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    h = self.lin(x)
    return torch.zeros_like(h).index_add(0, dst, h[src] * h[src] - h[dst])


def test_a_gather_by_source_is_synced_once() -> None:
    program = check_pass(
        model_of(_aggregate),
        [],
        InsertHaloSync(),
        "unbind getitem getitem linear halo_sync zeros_like index mul index sub index_add",
        edits=1,
    )
    synced = next(n for n in program.graph.nodes if n.name == "linear_halo")
    assert str(synced.meta["placement"]) == "Halo"
    assert len(synced.users) == 1  # the gather by destination still reads the owned rows


def _out_degrees(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src = edge_index[0]
    return x.new_zeros(x.size(0)).index_add(0, src, x.new_ones(src.size(0))) + 1


def test_a_scatter_by_source_is_reduced() -> None:
    program = check_pass(
        model_of(_out_degrees),
        [],
        InsertHaloSync(),
        "sym_size sym_size select new_zeros new_ones pad_halo index_add halo_reduce add",
        edits=1,
    )
    scattered = next(n for n in program.graph.nodes if "index_add" in str(n.target))
    assert str(scattered.meta["placement"]) == "Mirror(sum)"


def _transposed(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return x.t()[:, edge_index[0]].sum()


def test_rows_in_another_dim_are_turned_for_the_sync() -> None:
    check_pass(
        model_of(_transposed),
        [],
        InsertHaloSync(),
        "t transpose halo_sync transpose select index sum",
        edits=1,
    )
