"""return_row_ids: the places of rows that a mask kept or cat joined leave with them."""

from __future__ import annotations

import torch
from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.return_row_ids import ReturnRowIds


def _kept(self, x: Tensor, mask: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.tanh(), x[mask], x[mask].exp(), torch.cat([edge_index[0], edge_index[1]])


def test_what_is_not_all_of_a_set_has_its_places_returned_once() -> None:
    program = check_pass(
        model_of(_kept), [], ReturnRowIds(), "tanh index exp select select cat index join_ids", edits=2
    )
    assert [spec.target for spec in program.outputs if spec.kind == "ids"] == [
        *("Owned[mask]", "Edges+Edges"),
    ]


def _whole(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.tanh(), edge_index, x.sum(0)


def test_all_nodes_and_all_edges_need_none() -> None:
    check_pass(model_of(_whole), [], ReturnRowIds(), "tanh sum", edits=0)
