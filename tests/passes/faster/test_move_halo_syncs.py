"""Syncs where they are cheapest: a minimum cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.faster_models import attention, shrinking, weighted
from support.programs import before_pass, check_faster, model_of, once_ops, step_ops
from torch import Tensor, nn

from graphshard.passes.faster.cost_model import Speeds
from graphshard.passes.faster.halo_rows import SYNC
from graphshard.passes.faster.move_halo_syncs import MoveHaloSyncs

PASS = "move_halo_syncs"


def test_a_sync_of_features_that_never_change_costs_nothing() -> None:
    program = check_faster(weighted, PASS, "linear tanh linear weighted_sum add", 2)
    assert once_ops(program)[0] == "halo_sync"


def test_what_two_syncs_sent_is_computed_from_one() -> None:
    after = "linear tanh view sum own_rows gather gather add edge_softmax weighted_sum"
    check_faster(attention, PASS, after, 3)


class Wide(nn.Module):
    """Long rows before the sync, short ones behind it, or the other way round."""

    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, hidden).double(), nn.Linear(hidden, out).double()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        h = self.second(self.first(x).tanh().cumsum(1)).tanh()
        return h.new_zeros(h.size(0), h.size(1)).index_add(0, dst, h[src] * h[dst])


SLOW_ARITHMETIC = Speeds(arithmetic=1e3)


@pytest.mark.parametrize(
    ("hidden", "out", "speeds", "synced"),
    [
        (64, 8, SLOW_ARITHMETIC, "tanh"),  # the short rows behind the products
        (8, 64, SLOW_ARITHMETIC, "tanh"),  # even the long ones: products cost most
        (8, 64, Speeds(link=1e3), "x"),  # a link that slow is worth any work
    ],
)
def test_the_speeds_decide(hidden: int, out: int, speeds: Speeds, synced: str) -> None:
    program, step = before_pass(Wide(hidden, out), PASS)
    assert isinstance(step, MoveHaloSyncs)
    replace(step, speeds=speeds).run(program)
    values = {n.args[0].name.split("_")[0] for n in program.graph.nodes if n.target is SYNC}
    assert values == {synced}


def test_a_sync_that_stands_well_stays() -> None:
    program, step = before_pass(model_of(shrinking), PASS)
    step.run(program)
    before = step_ops(program)
    assert step.run(program) == 0
    assert step_ops(program) == before
