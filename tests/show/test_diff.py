"""The diff of a model: its text, its structure, and its bytes against a measured run."""

import copy
import doctest
import functools
import json
import re

import pytest
import torch
from support.golden_text import assert_golden
from support.models_for_golden import GAT, GCN, HandWritten, SAGELoss
from support.stages import diff_stages
from torch import nn
from torch_geometric.nn import GCNConv

import graphshard
from graphshard import preview as inspect_model
from graphshard.capture.export import capture
from graphshard.errors import CaptureError, DataError
from graphshard.execute.bind import bind
from graphshard.execute.constants import Constants
from graphshard.execute.run import State, compile_captured, graph_inputs, run
from graphshard.options import Options
from graphshard.show.names import Names
from graphshard.show.printing import render
from graphshard.show.traffic import traffic_of
from graphshard.testing import run_ranks
from graphshard.tools.data.sources import load_data

# What makes a program exact; what makes it faster has texts of its own in tests/passes.
PLAIN = Options.none()
diff = functools.partial(inspect_model.diff, options=PLAIN)
LOSS_INPUTS = {"y": "node:i64", "train_mask": "node:bool"}
CASES = {
    "gat": (GAT, {}),
    "gcn": (GCN, {}),
    "sage_loss": (SAGELoss, LOSS_INPUTS),
    "hand_written": (HandWritten, {}),
}


@functools.cache
def symbolic(name, between=False):
    model, inputs = CASES[name]
    return diff(model(), inputs=inputs, between=between)


def graph(num_nodes=30, num_edges=120, seed=0):
    rng = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(0, num_nodes - 2, (2, num_edges), generator=rng)
    edge_index[:, 0] = 3
    return {
        "x": torch.randn(num_nodes, 5, generator=rng, dtype=torch.float64),
        "edge_index": edge_index,
        "y": torch.randint(0, 3, (num_nodes,), generator=rng),
        "train_mask": torch.rand(num_nodes, generator=rng) > 0.5,
    }


def compiled_on(model, shard):
    bound = bind(model, (shard,), {}, {}, "", {})
    return compile_captured(capture(model, bound.signature), PLAIN)


@pytest.mark.parametrize("name", CASES)
def test_text(name):
    model, inputs = CASES[name]
    text = str(symbolic(name))
    assert text == str(diff(model(), inputs=inputs)), "another capture, another text"
    assert_golden(f"diff_{name}", text)


def test_text_of_each_pass():
    text = str(symbolic("sage_loss", between=True))
    assert_golden("diff_sage_loss_between", text)
    assert "== globalize_ids: 0 edits\n== " in text


def test_text_with_data():
    model = GCN()
    model.conv1 = GCNConv(34, 8)
    # Not METIS: another version of it may cut differently.
    shards = graphshard.partition(load_data("karate"), 3, method=torch.arange(34) * 3 // 34)
    assert_golden("diff_gcn_karate", str(diff(model, shards)))


@pytest.mark.parametrize("name", CASES)
def test_text_with_every_pass(name):
    model, inputs = CASES[name]
    assert_golden(f"diff_{name}_faster", str(inspect_model.diff(model(), inputs=inputs)))


def test_text_in_eval_mode():
    traffic = diff(GAT(), train=False).traffic
    assert traffic.units(("halo_sync",), "forward") == [32, 8, 12, 4]
    assert traffic.units(("halo_sync", "gradient"), "backward") == []


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_text_says_nothing_of_the_machine_or_of_export(case, between):
    found = symbolic(case, between)
    text = str(found)
    assert "/" not in text.replace("(k - 1) / k", "")
    assert not re.search(r"0x[0-9a-f]+|\bs\d+\b|\bu\d+\b|\?", text)
    # Every number of a name counts the names before it, so none comes from torch.export.
    names = {e.line.name for s in found.stages for e in s.entries} - {"return"}
    for numbered in names:
        base, _, number = numbered.rpartition("_")
        if number.isdigit() and int(number) > 1:
            assert f"{base}_{int(number) - 1}" in names
        if number == "1":
            assert base in names or base in ("x", "y")


def test_gat_syncs_stand_before_source_gathers_and_nowhere_else():
    entries = symbolic("gat").stages[0].entries
    synced = [e.line.name for e in entries if e.kind == "added"]
    assert len(synced) == 4
    assert all(e.line.op == "halo_sync" for e in entries if e.kind == "added")
    changed = [e.line for e in entries if e.kind == "changed"]
    assert [line.op for line in changed] == ["index_select"] * 4
    assert sorted(line.args[0] for line in changed) == sorted(synced)
    gathers = [e.line for e in entries if e.line.op == "index_select"]
    pointing = {e.line.name: e.line.placement for e in entries}
    for line in gathers:
        by_source = pointing[line.args[2]].endswith("halo")
        assert by_source == line.args[0].endswith("_halo")
    assert len(gathers) == 10


def test_every_value_keeps_its_name_through_all_stages():
    model = GAT().double()
    stages = compiled_on(model, graphshard.partition(graph(), 1)[0]).stages
    names = Names([s.program for s in stages])
    seen = {}  # type: ignore[var-annotated]
    for stage in stages:
        for line in render(stage.program, names):
            assert seen.setdefault(line.key, line.name) == line.name
    assert len(set(seen.values())) == len(seen)


def test_diff_of_two_stages():
    stages = compiled_on(GCN().double(), graphshard.partition(graph(), 1)[0]).stages
    by_name = {s.name: i for i, s in enumerate(stages)}
    at = by_name["insert_halo_sync"]
    found = diff_stages(stages[at - 1], stages[at]).stages[0]
    assert [e.line.code for e in found.of_kind("added")] == [
        "masked_fill_halo = halo_sync(masked_fill)",
        "linear_halo = halo_sync(linear)",
        "linear_1_halo = halo_sync(linear_1)",
    ]
    assert [e.was for e in found.of_kind("changed")] == [("masked_fill",), ("linear",), ("linear_1",)]
    assert found.of_kind("removed") == []
    backwards = diff_stages(stages[at].program, stages[at - 1].program).stages[0]
    assert len(backwards.of_kind("removed")) == 3
    same = diff_stages(stages[at], stages[at])
    assert same.stages[0].empty
    assert same.stages[0].lines() == []


@pytest.mark.parametrize("model", [GCN, GAT, SAGELoss, HandWritten])
def test_bytes_are_those_of_a_measured_run(model):
    torch.manual_seed(0)
    original = model().double()
    original.get_parameter(next(name for name, _ in original.named_parameters())).requires_grad_(False)
    compiled = compiled_on(original, graphshard.partition(graph(), 1)[0])
    trainable = {name for name, p in original.named_parameters() if p.requires_grad}
    for num_parts in (1, 2, 3):
        shards = graphshard.partition(graph(), num_parts)
        measured = measure(original, compiled, shards)
        traffic = traffic_of(compiled.program, trainable=trainable, halo=shards.report.halo_by_plan)
        for direction in ("forward", "backward"):
            counters = [rank[direction] for rank in measured]
            assert traffic.halo_bytes(direction) == sum(c.halo_bytes for c in counters)
            assert traffic.reduce_bytes(direction) == sum(c.reduce_bytes for c in counters)
        assert (traffic.halo_bytes("backward") > 0) == (num_parts > 1)  # type: ignore[operator]
    assert diff(original, shards).traffic.as_dict() == traffic.as_dict()


def measure(model, compiled, shards):
    """The bytes that each simulated rank sends, forward and backward."""
    models = [copy.deepcopy(model) for _ in shards]

    def train(rank, group_name, group):
        shard = shards[rank]
        flat = bind(model, (shard,), {}, {}, "", {}).flat
        with graphshard.count_bytes() as forward:
            graph = graph_inputs(shard, group_name, (0, 0))
            out = run(compiled, State.of(models[rank]), flat, graph, Constants()).restore()[0]
        with graphshard.count_bytes() as backward:
            out.sum().backward()
        return {"forward": forward, "backward": backward}

    return run_ranks(len(shards), train)


def test_no_backward_through_values_without_gradient():
    units = {
        name: symbolic(name).traffic.units(("halo_sync", "halo_reduce"), "backward")
        for name in ("gcn", "sage_loss", "hand_written")
    }
    # GCN's degrees, SAGE's features, and the hand-written model's out-degrees need none.
    assert units == {"gcn": [32, 12], "sage_loss": [32], "hand_written": [32]}


def test_summary_as_json():
    found = json.loads(json.dumps(symbolic("gat", between=True).as_dict()))
    assert found["summary"]["halo_syncs"] == 4
    assert found["summary"]["summed_gradients"] == 8
    assert found["summary"]["row_bytes"] == {"forward": 56, "backward": 56}
    lines = {s["name"]: s["lines"] for s in found["stages"]}
    assert [line["kind"] for line in lines["insert_halo_sync"]].count("added") == 4


def test_library_code_is_named_by_file_only():
    text = str(diff(GCNConv(5, 3)))
    assert "conv/gcn_conv.py" in text
    assert not re.search(r"\.py:\d", text)


def test_the_model_is_left_as_it_is():
    model = GAT()
    model.conv1.eval()
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    diff(model, train=True)
    diff(model, train=False)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": SAGELoss()}, "forward needs 'y'"),
        ({"model": GAT(), "inputs": {"z": "node"}}, "no argument 'z'"),
        ({"model": GAT(), "inputs": {"x": "nodes:f32:5"}}, "does not say what 'x' is"),
        ({"model": GAT(), "inputs": {"x": "node:f31:5"}}, "does not say what 'x' is"),
        ({"model": GAT(), "inputs": {"x": "node:f32:0"}}, "a size of 0"),
        ({"model": GAT(), "num_parts": 3}, "give the data too"),
        ({"model": GAT(), "data": "karate", "features": 3}, "or the data"),
        ({"model": GAT(), "data": graphshard.partition(graph(), 2), "num_parts": 3}, "2 parts already"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(DataError, match=re.escape(message)):
        diff(**arguments)


def test_no_width_and_no_module():
    class Plain(nn.Module):
        def forward(self, x, edge_index):
            return x

    with pytest.raises(DataError, match="how many features"):
        diff(Plain())
    assert diff(Plain(), features=4).stages[0].empty
    with pytest.raises(CaptureError, match="not distributed yet"):
        diff(graphshard.distribute(GAT()))


def test_example_of_the_docstring():
    result = doctest.testmod(inspect_model)
    assert (result.failed, result.attempted > 0) == (0, True)
