"""The graph of docs/worked-example.md: nodes A-E on 2 ranks; everything the page says is asserted here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.local import local
from torch import Tensor, nn

import graphshard
from graphshard.check.faults import faults_of
from graphshard.check.verify import Parts, Setting, Verification
from graphshard.ops.exchange import halo_reduce, halo_sync
from graphshard.testing import run_ranks

pyg = pytest.importorskip("torch_geometric.nn")

pytestmark = pytest.mark.versions

A, B, C, D, E = range(5)
EDGES = torch.tensor([[A, B, C, C, D, E, A], [B, C, A, D, E, C, D]])
PARTS = torch.tensor([0, 0, 1, 1, 1])


class TwoLayers(nn.Module):
    """A GCN or GAT of 2 layers."""

    def __init__(self, conv: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 4), conv(4, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x, edge_index)), edge_index)


def graph() -> dict[str, Tensor]:
    return {"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), "edge_index": EDGES}


def test_owned_and_halo_nodes() -> None:
    first, second = graphshard.partition(graph(), 2, method=PARTS)
    assert first.node_ids.tolist() == [A, B, C]
    assert first.num_owned == 2
    assert first.edge_index.local().tolist() == [[0, 2], [1, 0]]  # A->B and C->A
    assert second.node_ids.tolist() == [C, D, E, A, B]
    assert second.num_owned == 3
    assert second.edge_index.local().tolist() == [
        [4, 0, 1, 2, 3],
        [0, 1, 2, 0, 1],
    ]  # B->C C->D D->E E->C A->D


def test_what_is_sent() -> None:
    first, second = graphshard.partition(graph(), 2, method=PARTS)
    assert first.halo.send_index.tolist() == [0, 1]  # A and B, to rank 1
    assert second.halo.send_index.tolist() == [0]  # C, to rank 0
    assert (first.halo.send_splits, first.halo.recv_splits) == ((0, 2), (0, 1))
    assert (second.halo.send_splits, second.halo.recv_splits) == ((1, 0), (2, 0))


def test_forward_rows_go_out_and_backward_gradients_come_home() -> None:
    shards = graphshard.partition(graph(), 2, method=PARTS)
    values = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])

    def rank(number: int, group: str, _: Any) -> tuple[list[float], list[float]]:
        plan = shards[number].halo
        index, send, recv = plan.send_index, list(plan.send_splits), list(plan.recv_splits)
        synced = halo_sync(local(shards[number].scatter(values, "node")), index, send, recv, group)
        gradient = torch.full_like(synced, 10.0 ** (number + 1))
        home = halo_reduce(gradient, index, send, recv, "sum", group)
        return synced.flatten().tolist(), home.flatten().tolist()

    (forward0, back0), (forward1, back1) = run_ranks(2, rank)
    assert forward0 == [1, 2, 3]
    assert forward1 == [3, 4, 5, 1, 2]
    assert back0 == [110, 110]  # A and B: their own 10, and 100 from rank 1's copies
    assert back1 == [110, 100, 100]  # C: its own 100, and 10 from rank 0's copy


@pytest.mark.parametrize(("conv", "syncs"), [("GCNConv", 3), ("GATConv", 4)])
def test_every_value_and_gradient_equals_the_single_machine(conv: str, syncs: int) -> None:
    torch.manual_seed(0)
    model = TwoLayers(getattr(pyg, conv))
    report = graphshard.verify(model, graph(), 2, method=PARTS, options=graphshard.Options.none())
    assert report.passed, report.failures
    assert {r.name for r in report.rows if r.kind == "gradient"} == dict(model.named_parameters()).keys()
    assert sum(r.kind == "halo sync" and r.mode == "train" for r in report.rows) == syncs


@pytest.mark.parametrize("conv", ["GCNConv", "GATConv"])
def test_a_dropped_sync_is_reported(conv: str) -> None:
    torch.manual_seed(0)
    model = TwoLayers(getattr(pyg, conv))
    parts = Parts(graphshard.partition(graph(), 1)[0], list(graphshard.partition(graph(), 2, method=PARTS)))
    run = Verification(model, parts, Setting(True, True, torch.float64, {}))
    for fault in faults_of(run.prepared.compiled):
        if fault.how == "drop":
            assert not all(row.passed for row in run.on_threads(fault))
