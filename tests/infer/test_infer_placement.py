"""infer_placement: what every value holds on a rank, and that a pass which leaves work is found out."""

from __future__ import annotations

import pytest
import torch
from support.programs import model_of, program_of
from torch import Tensor

from graphshard.errors import PlacementError
from graphshard.infer.placement import check_placed
from graphshard.options import Options
from graphshard.passes.exact.infer_placement import InferPlacement
from graphshard.passes.pipeline import Pipeline


def _placed(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor, mask: Tensor) -> Tensor:
    keep = edge_index[0] != edge_index[1]
    loops = torch.arange(x.size(0)).repeat(2, 1)
    both = torch.cat([edge_index[:, keep], loops], 1)
    total = x[mask].sum(0)
    return x.new_zeros(x.size(0)).index_add(0, both[1], both[0].to(x.dtype)) + total.sum()


def test_placements() -> None:
    program = program_of(model_of(_placed))
    step = InferPlacement()
    assert step.run(program) > 0
    assert step.run(program) == 0
    found = {n.name: str(n.meta["placement"]) for n in program.graph.nodes if n.op != "output"}
    assert found["x"] == "Owned"
    assert found["edge_index"] == "Edges in dim 1 -> (halo, owned)"
    assert found["arange"] == "Owned -> owned"
    assert found["repeat"] == "Owned in dim 1 -> owned"
    assert found["cat"].endswith("+Owned in dim 1 -> (halo, owned)")
    assert found["lin_weight"] == "Replicated"
    assert "Partial(sum)" in found.values()
    assert "Owned[mask]" in found.values()
    assert "Edges[ne]" in found["cat"]


def test_edits_that_are_left_are_a_bug() -> None:
    program = program_of(model_of(_placed))
    InferPlacement().run(program)
    with pytest.raises(PlacementError, match=r"left .* edits undone"):
        check_placed(program)


def test_the_pipeline_keeps_every_stage_and_the_program_it_was_given() -> None:
    program = program_of(model_of(_placed))
    before = [n.name for n in program.graph.nodes]
    stages = Pipeline(Options().all_passes()).run(program)
    assert [n.name for n in program.graph.nodes] == before
    assert [s.name for s in stages] == ["capture", *(p.name for p in Options().all_passes())]
    assert [n.name for n in stages[0].program.graph.nodes] == before
