"""Through which values a gradient flows."""

from __future__ import annotations

from support.models import make
from support.programs import program_of

from graphshard.infer.gradient_flow import gradient_flow
from graphshard.ops import merged
from graphshard.tools.bench import pyg_models


def test_each_value_of_a_merged_exchange_has_a_gradient_of_its_own() -> None:
    """A GCN sends features and degrees in one message; degrees are computed from no feature."""
    program = program_of(make(lambda: pyg_models.make("gcn", 5, 16, 3)), -1)
    (sync,) = program.graph.find_nodes(op="call_function", target=merged.merged_sync)
    for given, wanted in ((True, [False, True]), (False, [False, False])):
        flowing = gradient_flow(program, inputs_need_grad=given)
        assert sorted(item in flowing for item in sync.users) == wanted
        assert sorted(value in flowing for value in sync.args[0]) == wanted
