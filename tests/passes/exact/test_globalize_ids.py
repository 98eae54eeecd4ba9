"""globalize_ids: node numbers used as numbers are looked up; ``==`` compares local ones."""

from __future__ import annotations

from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.globalize_ids import GlobalizeIds


def _numbers(self, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    return (src < dst).to(x.dtype) * (src == dst)


def test_less_than_compares_global_ids() -> None:
    check_pass(
        model_of(_numbers),
        [],
        GlobalizeIds(),
        "unbind getitem getitem index index lt _to_copy eq mul",
        edits=2,
    )
