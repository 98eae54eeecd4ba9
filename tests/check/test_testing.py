"""``graphshard.testing`` in the words of a user's own test."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import graphshard
from graphshard.check.faults import Fault
from graphshard.testing import assert_equivalent, run_ranks


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index[0], edge_index[1]
        total = torch.zeros_like(x).index_add(0, dst, x[src])
        degree = x.new_zeros(x.size(0)).index_add(0, dst, x.new_ones(src.size(0)))
        return self.lin(total / degree.clamp(min=1)[:, None])


def graph() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"x": torch.randn(12, 4), "edge_index": torch.randint(12, (2, 40))}


@pytest.mark.parametrize("parts", [1, 3])
def test_an_exact_model_passes_and_says_what_was_compared(parts: int) -> None:
    report = assert_equivalent(Mean, graph(), parts)
    assert report.num_parts == parts
    assert {"output", "gradient", "input gradient"} <= {row.kind for row in report.rows}


def test_a_difference_is_an_assertion_with_a_table_of_what_differs() -> None:
    """A halo exchange is left out of the program."""
    with pytest.raises(AssertionError, match=r"(?s)FAIL \(\d+ of \d+\).*halo sync"):
        assert_equivalent(Mean, graph(), 3, options=graphshard.Options.none(), fault=Fault("x_halo", "drop"))


def test_a_model_that_cannot_be_exact_is_refused() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x.flip(0)

    with pytest.raises(graphshard.UnsupportedOperation, match="flip"):
        assert_equivalent(Sorted(), graph(), 2)


def test_simulated_ranks_run_collectives() -> None:
    def rank_program(rank: int, _: str, group: dist.ProcessGroup) -> float:
        mine = torch.tensor(float(rank))
        dist.all_reduce(mine, group=group)
        return float(mine)

    assert run_ranks(3, rank_program) == [3.0, 3.0, 3.0]
