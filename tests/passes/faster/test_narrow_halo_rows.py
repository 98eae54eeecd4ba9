"""Rows that travel as bfloat16: asked for by name, visible, half of the bytes, and never called exact."""

from __future__ import annotations

import pytest
import torch
from support.faster_models import two_values, weighted
from support.programs import before_pass, model_of, step_ops
from support.strategies import fixed_case
from torch import Tensor, nn

import graphshard
from graphshard import Options
from graphshard.passes.exact.infer_placement import InferPlacement

PASS = "narrow_halo_rows"
EXACT = Options(move_halo_syncs=False)  # or the sync moves to x, which is sent once, and exactly
NARROW = Options(move_halo_syncs=False, narrow_halo_rows=True)


@pytest.mark.parametrize(("forward", "edits"), [(weighted, 1), (two_values, 2)])
def test_every_sync_of_a_step_is_narrowed_once(forward, edits: int) -> None:
    program, step = before_pass(model_of(forward), PASS, "move_halo_syncs")
    assert step.run(program) == edits
    program.graph.lint()
    InferPlacement().run(program)
    ops = step_ops(program)
    assert "halo_sync" not in ops
    assert ops.count("merged_sync") == edits
    assert step.run(program) == 0
    assert step_ops(program) == ops


class Mean(nn.Module):
    """One layer of neighbours' sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        h = self.first(x).tanh()
        return self.second(torch.zeros_like(h).index_add(0, dst, h[src].exp()))


def graph(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors = fixed_case().tensors
    return {"x": tensors["x"].to(dtype), "edge_index": tensors["edge_index"]}


def test_it_is_off_unless_asked_for() -> None:
    assert not Options().inexact
    assert not EXACT.inexact
    assert not Options.none().inexact
    assert NARROW.inexact == (PASS,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_verify_never_calls_it_exact(dtype: torch.dtype) -> None:
    report = graphshard.verify(Mean, graph(dtype), 2, dtype=dtype, options=NARROW)
    assert not report.passed
    assert report.as_dict()["inexact"] == [PASS]
    assert report.summary().startswith("INEXACT by choice (narrow_halo_rows; ")
    assert 1e-6 < report.largest < 0.1  # as far off as 8 bits are
    lucky = {"x": torch.zeros(24, 5), "edge_index": graph()["edge_index"]}
    assert not graphshard.verify(Mean, lucky, 2, options=NARROW).passed


def test_diff_shows_it_and_counts_half_of_the_bytes() -> None:
    exact = graphshard.diff(Mean(), graph(), num_parts=2, options=EXACT)
    narrow = graphshard.diff(Mean(), graph(), num_parts=2, options=NARROW)
    for direction in ("forward", "backward"):
        assert narrow.traffic.halo_bytes(direction) * 2 == exact.traffic.halo_bytes(direction) > 0  # type: ignore[operator]
    assert "forward and back as bfloat16: inexact" in str(narrow)
    assert "inexact" not in str(exact)
