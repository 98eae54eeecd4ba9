"""What depends on the graph alone, marked to be computed once."""

from __future__ import annotations

from support.faster_models import mean, weighted
from support.programs import before_pass, check_faster, model_of

from graphshard.infer.constants import ONCE

PASS = "hoist_graph_constants"
STEP = "bucketed_inputs getitem getitem getitem getitem linear tanh linear weighted_sum add"


def test_marks() -> None:
    check_faster(weighted, PASS, STEP, 11)
    program = check_faster(mean, PASS, STEP, 16)
    once = {n.name for n in program.graph.nodes if n.meta.get(ONCE)}
    assert "x_halo" in "".join(once)
    assert not any(n.meta.get(ONCE) for n in program.output_node().all_input_nodes)


def test_a_fill_that_a_step_reads_is_made_in_the_step() -> None:
    def forward(self, x):
        return self.lin(x) + x.new_zeros(x.size(0), 6)

    program, step = before_pass(model_of(forward), PASS)
    step.run(program)
    fills = [n for n in program.graph.nodes if "zeros" in n.name]
    assert fills
    assert not any(n.meta.get(ONCE) for n in fills)
