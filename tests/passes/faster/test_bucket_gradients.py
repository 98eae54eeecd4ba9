"""Gradients of several parameters in one all-reduce."""

from __future__ import annotations

from support.faster_models import weighted
from support.programs import before_pass, check_faster, model_of

from graphshard.passes.faster.bucket_gradients import BucketGradients

PASS = "bucket_gradients"


def test_one_bucket() -> None:
    after = "bucketed_inputs getitem getitem getitem getitem linear tanh linear weighted_sum add"
    check_faster(weighted, PASS, after, 4)


def test_a_full_bucket_is_closed_after_parameters_that_are_used_together() -> None:
    program, _ = before_pass(model_of(weighted), PASS)
    assert BucketGradients(size=30 * 8 + 1).run(program) == 4
    buckets = [n for n in program.graph.nodes if "bucketed_inputs" in n.name]
    assert sorted(sorted(v.name for v in b.args[0]) for b in buckets) == [
        ["lin_bias", "lin_weight"],
        ["out_bias", "out_weight"],
    ]
