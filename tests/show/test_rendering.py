"""A program can always be shown: ``graphshard diff`` in all its forms, of any model that compiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from support.stages import diff_stages
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

pytest.importorskip("torch_geometric")

import graphshard
from graphshard.capture.examples import Signature
from graphshard.capture.export import capture
from graphshard.check.verify import Parts, Setting, Verification
from graphshard.graph.roles import as_member
from graphshard.infer.emitter import Emitter
from graphshard.ir.program import Program
from graphshard.options import Options
from graphshard.passes.exact.infer_placement import InferPlacement
from graphshard.passes.pipeline import Pipeline
from graphshard.preview import argument_specs, describe
from graphshard.shard.node_parameters import sets_of
from graphshard.show.differ import Diff
from graphshard.tools import zoo
from graphshard.tools.data.sources import load_data
from graphshard.tools.targets import models
from graphshard.tools.targets.load import load_target
from graphshard.tools.zoo import run as zoo_run
from graphshard.tools.zoo.graphs import ROLES, cut_graph
from graphshard.tools.zoo.run import Result, render_all, run_configuration, tensor_names

SAMPLE = (
    "GATConv, heads",
    "PairNorm, individually, batch",  # sums over as many graphs as there are, which no one knows before
    "Mean of all nodes",
    "global_max_pool",
    "loss cross_entropy, mask",
)


def check_names(found: Diff) -> None:
    """Every value has a name of its own, and keeps it."""
    assert str(found).strip()
    named: dict[str, tuple[int | str, str]] = {}
    for stage in found.stages:
        lines = [e.line for e in stage.entries if e.kind != "removed" and e.line.name != "return"]
        assert max(Counter(line.name for line in lines).values()) == 1
        for line in lines:
            assert named.setdefault(line.name, line.key) == line.key


@pytest.mark.parametrize("name", models.NAMES)
def test_a_built_in_model(name: str) -> None:
    model = load_target(name, load_data("karate"))().train()
    shards = graphshard.partition(load_data("karate"), 3)
    stages = graphshard.distribute(model).stages(shards[0])
    for halo, between in product((None, shards.report.halo_by_plan), (False, True)):
        check_names(describe(model, stages, halo=halo, between=between, train=True))
    features = {"features": 34} if name == "gcn" else {}
    check_names(graphshard.diff(model, between=True, options=Options.none(), **features))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_configuration_of_the_zoo(name: str) -> None:
    ((_, configuration),) = [(g, c) for g, c in zoo.configurations() if c.name == name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = configuration.make().train(configuration.training)
        names = tensor_names(model)
        cut = cut_graph(0, names, edges=configuration.edges)
        roles = {name: as_member(ROLES[name], name) for name in names}
        sets = sets_of(configuration.node_parameters)
        setting = Setting(configuration.training, True, torch.float64, roles, sets)
        parts = cut.sharded()
        run = Verification(model, Parts(cut.whole(), list(parts)), setting)
        render_all(run.prepared, parts.report.halo_by_plan)
    finally:
        torch.set_default_dtype(default)


def test_a_configuration_that_cannot_be_shown_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = next(c for _, c in zoo.configurations() if c.name == "index add")
    assert run_configuration("hand-written", configuration, (0,)).result is Result.exact

    def planted(*_: object, **__: object) -> Diff:
        raise ValueError("planted")

    monkeypatch.setattr(zoo_run, "describe", planted)
    outcome = run_configuration("hand-written", configuration, (0,))
    assert outcome.result is Result.wrong
    assert "planted" in outcome.reason


def test_bytes_that_are_not_known_are_said_to_be_so() -> None:
    class GraphMeans(nn.Module):
        """The number of graphs is the largest number in ``batch``."""

        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(5, 3)

        def forward(self, x: Tensor, batch: Tensor) -> Tensor:
            h = self.lin(x)
            return h.new_zeros(int(batch.max()) + 1, 3).index_add(0, batch, h).sum()

    shards = graphshard.partition(
        {"x": torch.rand(6, 5), "batch": torch.arange(6) // 3, "edge_index": torch.tensor([[0, 1], [1, 0]])},
        2,
    )
    for data in (None, shards):
        inputs = None if data else {"x": "node:f32:5", "batch": "node:i64"}
        found = graphshard.diff(GraphMeans(), data, inputs=inputs)
        assert "all-reduces: ? B" in found.traffic.lines()[1]
        assert any(e.note == "? B forward and back" for e in found.stages[0].entries)
    assert found.traffic.reduce_bytes("forward") is None
    assert found.traffic.halo_bytes("forward") == 0


# ---- identity ----------------------------------------------------------------------------------------------


class Negated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x.neg())


def _only(program: Program, target: object) -> fx.Node:
    (found,) = [node for node in program.graph.nodes if node.target is target]
    return found


@dataclass(frozen=True)
class TakeOut:
    """Take the ``neg`` out, and go on with a copy of the program, as passes that try something do."""

    name: str = "take_out"

    def run(self, program: Program) -> int:
        node = _only(program, torch.ops.aten.neg.default)
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        program.graph.erase_node(node)
        copied = program.copy()
        program.module, program.inputs = copied.module, copied.inputs
        return 1


@dataclass(frozen=True)
class PutIn:
    """Put another ``neg`` of the same name in, of a vector."""

    name: str = "put_in"

    def run(self, program: Program) -> int:
        linear = _only(program, torch.ops.aten.linear.default)
        emit = Emitter(program, linear)
        with emit.before(linear):
            bias = linear.args[2]
            made = emit.call(torch.ops.aten.neg.default, bias, name="neg")
        linear.replace_input_with(bias, made)  # type: ignore[arg-type]
        return 1


@dataclass(frozen=True)
class PutInLikeness:
    """Put a node in that has the whole meta of the ``neg`` that it replaces."""

    name: str = "put_in_likeness"

    def run(self, program: Program) -> int:
        node = _only(program, torch.ops.aten.neg.default)
        with program.graph.inserting_before(node):
            made = program.graph.call_function(torch.ops.aten.neg.default, node.args)
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        program.graph.erase_node(node)
        return 1


def negated() -> Program:
    specs = argument_specs(Negated(), None, {})
    leaves, structure = pytree.tree_flatten(((), specs))
    return capture(Negated(), Signature(tuple(leaves), structure, tuple(specs))).program


def test_two_values_of_one_name_are_two() -> None:
    stages = Pipeline((InferPlacement(), TakeOut(), PutIn())).run(negated())
    first, last = (_only(s.program, torch.ops.aten.neg.default) for s in (stages[0], stages[-1]))
    assert first.name == last.name == "neg"
    (found,) = diff_stages(stages[0], stages[-1]).stages
    ((removed,), (added,)) = (found.of_kind("removed"), found.of_kind("added"))
    assert (removed.line.type, added.line.type) == ("f32[n, 4]", "f32[3]")
    assert removed.line.name != added.line.name
    assert [e.was for e in found.of_kind("changed")] == [(removed.line.name, "lin.bias")]


def test_a_node_in_the_likeness_of_another_is_a_value_of_its_own() -> None:
    stages = Pipeline((InferPlacement(), PutInLikeness())).run(negated())
    (found,) = diff_stages(stages[-2], stages[-1]).stages
    assert [len(found.of_kind(kind)) for kind in ("removed", "added")] == [1, 1]


def test_a_copy_is_the_same_value() -> None:
    stages = Pipeline((InferPlacement(),)).run(negated())
    program = stages[-1].program
    (found,) = diff_stages(program, program.copy().copy()).stages
    assert found.empty
