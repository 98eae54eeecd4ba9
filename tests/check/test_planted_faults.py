"""A check that passes must be able to fail: every exchange, taken out, is reported."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphshard
from graphshard import Options
from graphshard.check.faults import Fault, faults_of
from graphshard.check.verify import Parts, Setting, Verification

pyg = pytest.importorskip("torch_geometric.nn")


class Stack(nn.Module):
    """Two convs of one kind, with a batch norm and a residual."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        make = {
            "gcn": pyg.GCNConv,
            "sage": lambda i, o: pyg.SAGEConv(i, o, aggr=["mean", "max"]),
            "gat": lambda i, o: pyg.GATConv(i, o // 2, heads=2),
            "gatv2": lambda i, o: pyg.GATv2Conv(i, o // 2, heads=2),
            "gin": lambda i, o: pyg.GINConv(nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())),
            "transformer": lambda i, o: pyg.TransformerConv(i, o // 2, heads=2),
        }[kind]
        self.first, self.second = make(4, 6), make(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = F.elu(self.norm(self.first(x, edge_index)))
        return self.out(h + self.second(h, edge_index))


class BySource(nn.Module):
    """Out-degrees (a scatter by source), messages sent both ways, a global mean, and its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor, edge_index: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        src, dst = edge_index[0], edge_index[1]
        h = torch.tanh(self.lin(x))
        degree = x.new_zeros(x.size(0)).index_add(0, src, x.new_ones(src.size(0)))
        back = torch.zeros_like(h).index_add(0, src, h[dst])
        forth = torch.zeros_like(h).index_add(0, dst, h[src])
        h = (back + forth) / (1 + degree).unsqueeze(-1) - h.mean(0)
        return F.cross_entropy(self.out(h)[mask], y[mask])


def graph() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(24, 4, generator=generator),
        "edge_index": torch.randint(0, 24, (2, 80), generator=generator),
        "y": torch.randint(0, 3, (24,), generator=generator),
        "mask": torch.arange(24) % 2 == 0,
    }


def verification(
    model: nn.Module, data: dict[str, Tensor], training: bool = True, options: Options | None = None
) -> Verification:
    """Captured once, run once for each fault."""
    shards = list(graphshard.partition(data, 3, method=torch.arange(24) % 3))
    parts = Parts(graphshard.partition(data, 1)[0], shards)
    return Verification(model, parts, Setting(training, True, torch.float64, {}, options=options or PLAIN))


PLAIN = Options.none()
OVERLAPPED = Options(overlap_halo_syncs=True)


def check_every_fault(
    model: nn.Module, data: dict[str, Tensor], kinds: set[str], options: Options | None = None
) -> None:
    run = verification(model, data, options=options)
    assert all(row.passed for row in run.on_threads())
    faults = faults_of(run.prepared.compiled)
    assert {f.how for f in faults} == {"drop", "drop backward"}
    assert kinds <= {f.node.rsplit("_", 1)[-1] for f in faults}
    faults = [fault for fault in faults if fault.node.removesuffix("_in") not in without_gradient(run)]
    missed = [str(fault) for fault in faults if all(row.passed for row in run.on_threads(fault))]
    assert not missed


def without_gradient(run: Verification) -> set[str]:
    """Parameters whose gradient is 0 on paper, on every rank too: a bias that a softmax takes out again."""
    found = {
        name: value.value.abs().max() for (kind, name), value in run.reference.items() if kind == "gradient"
    }
    return {name.replace(".", "_") for name, size in found.items() if size < 1e-12 * max(found.values())}


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat", "gatv2", "gin", "transformer"])
def test_every_fault_in_stock_layers_is_reported(kind: str) -> None:
    torch.manual_seed(0)
    data = {n: t for n, t in graph().items() if n in ("x", "edge_index")}
    check_every_fault(Stack(kind), data, {"halo", "all", "in"})


@pytest.mark.parametrize("options", [Options(), OVERLAPPED], ids=["fast", "overlapped"])
@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_every_fault_in_optimised_programs_is_reported(kind: str, options: Options) -> None:
    torch.manual_seed(0)
    data = {n: t for n, t in graph().items() if n in ("x", "edge_index")}
    check_every_fault(Stack(kind), data, {"inputs"}, options)


def test_every_fault_in_a_hand_written_model_is_reported() -> None:
    torch.manual_seed(0)
    check_every_fault(BySource(), graph(), {"halo", "owned", "all", "in", "out"})


class Extremes(nn.Module):
    """Extremes and a product over all nodes, and a maximum by source; whole numbers tie over the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = x * self.scale
        index = edge_index[0].unsqueeze(-1).expand(-1, 4)
        back = h.new_zeros(h.size(0), 4).scatter_reduce(0, index, h[edge_index[1]], "amax")
        return back * h.amin(0) + h.sin().prod(0) * x + h.max(0)[0]


def test_every_fault_in_extremes_is_reported() -> None:
    data = {n: t for n, t in graph().items() if n in ("x", "edge_index")}
    data["x"] = torch.where(data["x"].abs() < 0.4, 1.0, (data["x"] * 1.5).round())
    data["x"][5] = 9.0  # one rank has the largest, several have the next
    check_every_fault(Extremes(), data, {"halo", "owned", "all", "ranks"})


def test_a_sync_that_a_softmax_hides_is_reported_by_its_own_values() -> None:
    """What is subtracted is divided away again: only the sync's own rows show that it is wrong."""

    class Shifted(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            src, dst = edge_index[0], edge_index[1]
            # The shift by a neighbour's score cancels: the result does not depend on it.
            shift = x.sum(-1)[src]
            score = x.new_ones(src.size(0))
            weight = (score - shift).exp() / (-shift).exp()
            return torch.zeros_like(x).index_add(0, dst, x[dst] * weight.unsqueeze(-1))

    model, data = Shifted(), {n: t for n, t in graph().items() if n in ("x", "edge_index")}
    run = verification(model, data, training=False)
    faults = [f for f in faults_of(run.prepared.compiled) if f.how == "drop"]
    assert faults
    for fault in faults:
        assert [r for r in run.on_threads(fault) if r.kind == "halo sync" and not r.passed]


def test_a_planted_fault_is_reported_over_real_processes() -> None:
    torch.manual_seed(0)
    model, data = Stack("gcn"), {n: t for n, t in graph().items() if n in ("x", "edge_index")}
    fault = next(f for f in faults_of(verification(model, data).prepared.compiled) if f.how == "drop")
    whole = graphshard.verify(model, data, 2, modes=["train"], transport="processes", options=PLAIN)
    broken = graphshard.verify(
        model, data, 2, modes=["train"], transport="processes", options=PLAIN, fault=fault
    )
    assert whole.passed
    assert not broken.passed


def test_a_report_without_rows_has_not_passed() -> None:
    assert not graphshard.Report(2, "float64", "threads", []).passed
    assert str(Fault("x_halo", "drop")) == "drop x_halo"
