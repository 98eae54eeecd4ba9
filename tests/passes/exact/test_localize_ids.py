"""localize_ids: numbers that every rank holds whole lead to the rows that a rank has."""

from __future__ import annotations

import torch
from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.localize_ids import LocalizeIds


def _between_edges(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
    pairs = torch.tensor([[0, 2, 1], [1, 1, 0]])
    read = edge_weight[pairs[0]].sin()
    return torch.zeros_like(edge_weight).index_add(0, pairs[1], read)


def test_a_read_and_a_write_by_number() -> None:
    check_pass(
        model_of(_between_edges),
        [],
        LocalizeIds(),
        "clone select sym_size rows_of_ids rows_or_zeros sin zeros_like select view expand expand sym_size "
        "rows_of_ids write_entries",
        edits=2,
    )
