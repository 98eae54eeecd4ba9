"""Sums that take rows and sums of rows, whichever are fewer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.faster_models import attention, mean, rooted
from support.models import make
from support.programs import before_pass, check_faster, model_of
from support.strategies import fixed_case
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, GINConv, SAGEConv

import graphshard
from graphshard import Options
from graphshard.check.faults import faults_of
from graphshard.check.verify import Parts, Setting, Verification
from graphshard.ops import rooted as rooted_ops
from graphshard.ops.preaggregation import preaggregation
from graphshard.testing import assert_equivalent

PASS = "preaggregate_halo_rows"
STAY = "move_halo_syncs reassociate_aggregations"


def known_weights(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A neighbour sum weighted by degrees (GCNConv), between two layers."""
    src, dst = edge_index
    degree = x.new_zeros(x.size(0)).index_add(0, dst, x.new_ones(src.size(0))) + 1
    h = self.lin(x).tanh()
    message = h[src] * (degree.rsqrt()[src] * degree.rsqrt()[dst])[:, None]
    return self.out(h.new_zeros(h.size(0), 6).index_add(0, dst, message))


def test_a_sum_with_weights_that_are_constants_of_the_graph() -> None:
    program = check_faster(known_weights, PASS, "linear tanh streamed_sum linear", 1, without=STAY)
    (node,) = program.graph.find_nodes(op="call_function", target=preaggregation)
    assert node.args[0] is not None


def test_a_mean_keeps_its_scale() -> None:
    program = check_faster(mean, PASS, "linear tanh streamed_sum linear", 1, without=STAY)
    (node,) = program.graph.find_nodes(op="call_function", target=preaggregation)
    assert node.args[0] is None


def test_a_layer_of_graphsage_is_fused_as_before() -> None:
    program, step = before_pass(model_of(rooted), "fuse_root_weights")
    assert step.run(program) == 1
    (node,) = program.graph.find_nodes(op="call_function", target=rooted_ops.rooted_sum)
    assert node.args[3].target is preaggregation


def test_layers_over_the_same_edges_share_what_is_known_of_them() -> None:
    def twice(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        h = self.lin(x).tanh()
        h = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src]).tanh()
        return self.out(h.new_zeros(h.size(0), 6).index_add(0, dst, h[src]).tanh())

    program, step = before_pass(model_of(twice), PASS, STAY)
    assert step.run(program) == 2
    assert len(program.graph.find_nodes(op="call_function", target=preaggregation)) == 1


def test_attention_and_weights_that_come_with_a_gradient_stay_as_they_are() -> None:
    def learned(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        h = self.lin(x).tanh()
        return self.out(h.new_zeros(h.size(0), 6).index_add(0, dst, h[src] * h[dst].detach()[:, :1]))

    for forward in (attention, learned):
        program, step = before_pass(model_of(forward), PASS, STAY)
        assert step.run(program) == 0


class Layers(nn.Module):
    """Three layers of one kind, a dropout between them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        widths = (5, 8, 8, 3)
        self.convs = nn.ModuleList(_CONVS[kind](a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = nn.functional.dropout(conv(x, edge_index).relu(), 0.2, self.training)
        return x


_CONVS = {
    "gcn": GCNConv,
    "sage": SAGEConv,
    "sage-sum": lambda a, b: SAGEConv(a, b, aggr="sum", root_weight=False),
    "gin": lambda a, b: GINConv(nn.Sequential(nn.Linear(a, b), nn.Tanh()), train_eps=True),
}


def data_of(parts: int) -> dict[str, Tensor]:
    case = fixed_case(parts=parts)
    return {name: case.tensors[name] for name in ("x", "edge_index")}


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        *((kind, ()) for kind in sorted(_CONVS)),
        ("gcn", ("stream_halo_syncs",)),
        ("gcn", ("sort_edges", "hoist_graph_constants")),
        ("sage", ("fuse_root_weights",)),
    ],
)
def test_models_equal_one_machine(kind: str, left_out: tuple[str, ...]) -> None:
    options = Options(move_halo_syncs=False, **dict.fromkeys(left_out, False))  # type: ignore[arg-type]
    assert_equivalent(make(lambda: Layers(kind)), data_of(4), 4, dtype=torch.float64, options=options)


def test_on_processes() -> None:
    report = graphshard.verify(
        make(lambda: Layers("gcn")),
        data_of(2),
        2,
        modes=["train"],
        transport="processes",
        options=Options(move_halo_syncs=False),
    )
    assert report.passed


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_faults_are_reported(kind: str) -> None:
    """Edges that no sum takes in, rows and sums that nobody adds, gradients that do not come home."""
    random = torch.Generator().manual_seed(3)
    data = {
        "x": torch.randn(24, 5, generator=random),
        "edge_index": torch.randint(0, 24, (2, 80), generator=random),
    }
    shards = list(graphshard.partition(data, 3, method=torch.arange(24) % 3))
    parts = Parts(graphshard.partition(data, 1)[0], shards)
    setting = Setting(True, True, torch.float64, {}, options=Options(move_halo_syncs=False))
    run = Verification(make(lambda: Layers(kind)), parts, setting)
    assert all(row.passed for row in run.on_threads())
    faults = faults_of(run.prepared.compiled)
    planted = {str(fault) for fault in faults}
    of_sum = "streamed_sum_default" if kind == "gcn" else "rooted_sum_default"
    assert {"drop preaggregation_default", f"drop {of_sum}", f"drop backward {of_sum}"} <= planted
    faults = [fault for fault in faults if not fault.node.endswith("bias_in")]
    assert not [str(fault) for fault in faults if all(row.passed for row in run.on_threads(fault))]


def test_rows_and_bytes_of_a_preview_are_those_that_travel() -> None:
    data, model = data_of(3), make(lambda: Layers("gcn"))
    options = Options(move_halo_syncs=False)
    shards = graphshard.partition(data, 3)
    shown = graphshard.diff(model, shards, options=options).traffic

    def rank(number: int, _group: str, _: object) -> tuple[int, int]:
        ours = graphshard.distribute(model, options=options, seed=0)
        ours(shards[number])  # what is sent once
        with graphshard.count_bytes() as forward:
            out = ours(shards[number])
        with graphshard.count_bytes() as backward:
            out.sum().backward()
        return forward.halo_bytes, backward.halo_bytes

    forward, backward = zip(*graphshard.testing.run_ranks(3, rank), strict=True)
    assert shown.halo_bytes("forward") == sum(forward)
    assert shown.halo_bytes("backward") == sum(backward)
    assert not any(exchange.at_most for exchange in shown.exchanges)
    symbolic = graphshard.diff(model, features=5, options=options)
    assert any("at most h x" in line for line in str(symbolic).splitlines())
