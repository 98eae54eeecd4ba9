"""Fills and sizes that no longer wait for a value of the step."""

from __future__ import annotations

import torch
from support.faster_models import attention, mean, weighted
from support.programs import before_pass, check_faster, model_of, once_ops


def test_zeros_of_a_sum() -> None:
    program = check_faster(weighted, "free_constants", "linear tanh halo_sync index mul index_add linear", 1)
    assert once_ops(program) == ["unsqueeze", "full"]


def test_a_count_of_neighbours_is_a_constant_of_the_graph() -> None:
    after = "linear tanh halo_sync index index_add div linear"
    program = check_faster(mean, "free_constants", after, 3)
    assert once_ops(program) == ["full", "full", "full", "index_add", "clamp", "unsqueeze"]


def test_what_was_there_twice_is_there_once() -> None:
    program, step = before_pass(model_of(attention), "free_constants")
    step.run(program)
    fills = [n for n in program.graph.nodes if n.target is torch.ops.aten.full.default]
    assert [tuple(n.meta["val"].shape[1:]) for n in fills] == [(2,), (2, 3)]
