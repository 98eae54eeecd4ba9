"""Values that are synced at the same time, in one message."""

from __future__ import annotations

from support.faster_models import two_values, weighted
from support.programs import before_pass, check_faster, model_of

PASS = "merge_halo_syncs"


def test_two_at_once_and_one_that_depends_on_them() -> None:
    after = """linear tanh cumsum flip exp merged_sync getitem getitem gather gather sum mul segment_sum softmax
        halo_sync gather exp segment_sum"""
    check_faster(two_values, PASS, after, 2, without="move_halo_syncs")


def test_one_sync_is_left_alone() -> None:
    program, step = before_pass(model_of(weighted), PASS, "move_halo_syncs")
    assert step.run(program) == 0
