"""A product of what edges read of their nodes is a product of the nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.models import make
from support.programs import before_pass, check_faster, model_of
from support.strategies import fixed_case
from torch import Tensor, nn
from torch_geometric import nn as pyg

import graphshard
from graphshard.testing import assert_equivalent

PASS = "split_edge_products"


def joined(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
    """The first layer of MeshGraphNet on edges."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    w, b = self.out.weight, self.out.bias
    message = nn.functional.linear(
        torch.cat([h[src], edge_weight[:, None], h[dst]], -1), torch.cat([w, b[:, None], w.cos()], 1), b
    )
    return h.new_zeros(h.size(0), 3).index_add(0, dst, message.relu())


def difference(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """EdgeConv: what a node is, and by how much its neighbour differs; what it is alone is split."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    w = self.out.weight
    message = nn.functional.linear(torch.cat([h[dst], h[src] - h[dst]], 1), torch.cat([w, w.cos()], 1))
    return h.new_zeros(h.size(0), 3).index_add(0, dst, message.relu())


def read_alone(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A layer that every edge runs on its neighbour."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    return h.new_zeros(h.size(0), 3).index_add(0, dst, self.out(h[src]).relu())


def difference_alone(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A small difference keeps its digits, and one that is 0 stays so."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    return h.new_zeros(h.size(0), 3).index_add(0, dst, self.out(h[src] - h[dst]).relu())


def of_a_maximum(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Neighbours with equal features share its derivative."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    message, spread = self.out(h[src]).relu() * 2, dst[:, None].expand(-1, 3)
    return h.new_zeros(h.size(0), 3).scatter_reduce(0, spread, message, "amax", include_self=False)


def of_the_largest_edge(self, x: Tensor, edge_index: Tensor) -> Tensor:
    h = self.lin(x).tanh()
    return self.out(h[edge_index[0]]).amax(0) + h[:, :3]


def widened(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """A product that makes rows ten times wider: to read them is dearer than to compute them."""
    src, dst = edge_index
    h = self.lin(x).tanh()[:, :1]
    message = nn.functional.linear(torch.cat([h[src], h[dst]], 1), torch.cat([self.lin.weight] * 4)[:, :2])
    return h.new_zeros(h.size(0), message.size(1)).index_add(0, dst, message.relu())


def of_edges_alone(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
    """Nothing is read of nodes."""
    e = torch.cat([edge_weight[:, None]] * 6, 1)
    return x.new_zeros(x.size(0), 3).index_add(0, edge_index[1], self.out(e).relu())


def product_of_reads(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """No sum of what is read."""
    src, dst = edge_index
    h = self.lin(x).tanh()
    return h.new_zeros(h.size(0), 3).index_add(0, dst, self.out(h[src] * h[dst]).relu())


def test_columns_that_are_joined() -> None:
    after = "linear gather add slice linear gather add relu segment_sum"
    check_faster(joined, PASS, f"linear tanh halo_sync unsqueeze cos cat slice linear slice {after}", 1)


def test_a_difference_of_two_reads() -> None:
    after = "slice linear slice linear gather add relu segment_sum"
    check_faster(difference, PASS, f"linear tanh halo_sync gather gather sub cos cat {after}", 1)


def test_a_read_alone() -> None:
    check_faster(read_alone, PASS, "linear tanh halo_sync linear gather relu segment_sum", 1)


STAYS = [
    *(widened, of_edges_alone, product_of_reads),
    *(difference_alone, of_a_maximum, of_the_largest_edge),
]


@pytest.mark.parametrize("lowered", [True, False])
@pytest.mark.parametrize("forward", STAYS)
def test_what_stays(forward: Callable[..., object], lowered: bool) -> None:
    program, step = before_pass(model_of(forward), PASS, "" if lowered else "lower_aggregations sort_edges")
    assert step.run(program) == 0


class MeshGraphNet(nn.Module):
    """Two steps; what is joined in the first has another width than in the second."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList([nn.Linear(11, 7), nn.Linear(21, 7)])
        self.nodes = nn.ModuleList([nn.Linear(12, 7), nn.Linear(14, 7)])

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        src, dst = edge_index
        e = edge_weight[:, None]
        for edge, node in zip(self.edges, self.nodes, strict=True):
            e = edge(torch.cat([x[src], e, x[dst]], dim=-1)).sin()
            total = x.new_zeros(x.size(0), 7).index_add(0, dst, e)
            x = node(torch.cat([x, total], dim=-1)).tanh()
        return x


class Conv(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.lin, self.layer = nn.Linear(5, 64), layer

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.layer(self.lin(x).cos(), edge_index)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mesh graph net": MeshGraphNet,
    "edge conv, mean": lambda: Conv(
        pyg.EdgeConv(nn.Sequential(nn.Linear(128, 16), nn.Tanh(), nn.Linear(16, 4)), aggr="mean")
    ),
    "cg conv": lambda: Conv(pyg.CGConv(64)),
}


@pytest.mark.parametrize("lowered", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_models_equal_one_machine(name: str, lowered: bool) -> None:
    """Derivatives of any order, with the kernels and with PyTorch's own ops."""
    case = fixed_case(parts=3)
    model = make(MODELS[name])
    names = ["x", "edge_index", *(["edge_weight"] if name == "mesh graph net" else [])]
    data = {name: case.tensors[name] for name in names}
    options = graphshard.Options(lower_aggregations=lowered)
    report = assert_equivalent(model, data, 3, dtype=torch.float64, options=options)
    assert "gradient, second step" in {row.kind for row in report.rows}


@pytest.mark.parametrize(
    ("name", "products"), [("mesh graph net", 1), ("edge conv, mean", 1), ("cg conv", 2)]
)
def test_their_products_are_split(name: str, products: int) -> None:
    """But of the mesh's first layer, which has fewer columns than it makes."""
    case = fixed_case(parts=1)
    names = ["x", "edge_index", *(["edge_weight"] if name == "mesh graph net" else [])]
    model = graphshard.distribute(make(MODELS[name]))
    shard = graphshard.partition({name: case.tensors[name] for name in names}, 1)[0]
    edits = {stage.name: stage.edits for stage in model.stages(shard)}
    assert edits[PASS] == products
