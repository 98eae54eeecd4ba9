"""Rows reduced into groups that several ranks write to: graphs that span ranks, and nodes by source."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from support.equality import Compilations, check_equal
from support.models import pyg
from support.programs import model_of
from support.strategies import Case, cases, examples, fixed_case
from torch import Tensor, nn
from torch_geometric.utils import softmax

GRAPHS = 4
aggr = pyg.aggr


def with_batch(case: Case, graphs: int = GRAPHS) -> Case:
    """Nodes in graphs, in order; some graphs may be empty."""
    generator = torch.Generator().manual_seed(case.assignment.numel())
    nodes = case.assignment.numel()
    case.tensors["batch"] = torch.randint(0, graphs, (nodes,), generator=generator).sort().values
    return case


_KEPT: dict[str, tuple[nn.Module, Compilations]] = {}


def compiled(name: str, make: Callable[[], nn.Module]) -> tuple[nn.Module, Compilations]:
    if name not in _KEPT:
        _KEPT[name] = make(), Compilations()
    return _KEPT[name]


def _spread(index: Tensor, like: Tensor) -> Tensor:
    return index.view(-1, 1).expand(-1, like.size(1))


def _bases(rows: Any, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Zeros, ones, and a base that needs a gradient and ties with integer-valued rows."""
    return [x.new_zeros(rows, 5), x.new_ones(rows, 5), weight[:5].round().expand(rows, 5) * 1]


REDUCES = ["sum", "mean", "amax", "amin", "prod"]


def _into_graphs(reduce: str) -> nn.Module:
    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, mask: Tensor) -> list[Tensor]:
        src, dst = edge_index
        pooled = []
        for base in _bases(GRAPHS, x, self.weight):
            for kept in (True, False):
                for index, rows in ((batch, x), (batch[mask], x[mask]), (batch[dst], x[src])):
                    pooled.append(
                        base.scatter_reduce(0, _spread(index, rows), rows, reduce, include_self=kept)
                    )
                if reduce != "sum":
                    pooled.append(base.index_reduce(0, batch, x, reduce, include_self=kept))
        return pooled

    return model_of(forward)


def _onto_sources(reduce: str) -> nn.Module:
    def forward(self, x: Tensor, edge_index: Tensor) -> list[Tensor]:
        src, dst = edge_index
        found = []
        for base in (*_bases(x.size(0), x, self.weight), x * 2):
            for kept in (True, False):
                found.append(base.scatter_reduce(0, _spread(src, base), x[dst], reduce, include_self=kept))
                if reduce != "sum":
                    found.append(base.index_reduce(0, src, x[dst], reduce, include_self=kept))
        return found

    return model_of(forward)


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("reduce", REDUCES)
@examples(4)
@given(case=cases().map(with_batch))
def test_rows_reduced_into_graphs(reduce: str, case: Case) -> None:
    model, programs = compiled(f"graphs {reduce}", lambda: _into_graphs(reduce))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("reduce", REDUCES)
@examples(4)
@given(case=cases())
def test_rows_reduced_onto_their_sources(reduce: str, case: Case) -> None:
    model, programs = compiled(f"sources {reduce}", lambda: _onto_sources(reduce))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("where", ["graphs", "sources"])
def test_ties_over_ranks_share_a_gradient_with_the_base(where: str) -> None:
    """Every value is the same, so all rows of a group tie, on every rank that holds one."""
    case = with_batch(fixed_case(parts=4), 2)
    make = partial(_into_graphs if where == "graphs" else _onto_sources, "amax")
    for value in (-1.0, 0.0, 2.0):
        case.tensors["x"] = torch.full_like(case.tensors["x"], value)
        model, programs = compiled(f"{where} amax", make)
        check_equal(model, case.tensors, case.assignment, case.parts, programs)


def _other_writes(self, x: Tensor, edge_index: Tensor, batch: Tensor, z: Tensor) -> list[Tensor]:
    """Writes that are no scatter_reduce: sums of other names, one number, integers, one column."""
    src, dst = edge_index
    base = self.weight[:5].expand(GRAPHS, 5)
    counts = torch.zeros(GRAPHS, dtype=torch.int64)
    return [
        base.index_add(0, batch, x, alpha=2),
        base.index_put((batch,), x, accumulate=True),
        x.index_put((src,), x[dst], accumulate=True),
        self.weight[:GRAPHS].scatter(0, batch, 3.0) * 2,
        x[:, 0].scatter(0, src, 3.0),
        counts.scatter_reduce(0, batch, z, "mean", include_self=False),
        counts.scatter_reduce(0, batch, z, "amin"),
        x.new_zeros(GRAPHS).scatter_reduce(0, batch, x[:, 0], "amax"),
        x.new_zeros(x.size(0), 4).scatter(1, z[:, None], 1.0) * self.weight[:4],
    ]


@examples(4)
@given(case=cases().map(with_batch))
def test_other_writes(case: Case) -> None:
    model, programs = compiled("other writes", lambda: model_of(_other_writes))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


# ---- layers of PyG -------------------------------------------------------------------------------------------


def _pools(self, x: Tensor, batch: Tensor) -> tuple[Tensor, ...]:
    h = self.lin(x)
    mean = pyg.global_mean_pool(h, batch, size=GRAPHS)
    attention = softmax(h, batch, num_nodes=GRAPHS)
    maximum = pyg.global_max_pool(x, batch, size=GRAPHS)
    return mean[batch] * attention, maximum, pyg.global_add_pool(h, batch, size=GRAPHS)


def _norms(self, x: Tensor, batch: Tensor) -> list[Tensor]:
    h = self.lin(x)
    return [
        self.graph_norm(h, batch, GRAPHS),
        self.instance_norm(h, batch, GRAPHS),
        self.layer_norm(h, batch, GRAPHS),
        self.size_norm(h, batch, GRAPHS),
        self.mean_subtraction(h, batch, GRAPHS),
        self.pair_norm(h),
        self.group_norm(h),
    ]


NORMS = {
    "graph_norm": pyg.GraphNorm(6),
    "instance_norm": pyg.InstanceNorm(6, affine=True),
    "layer_norm": pyg.LayerNorm(6, mode="graph"),
    "size_norm": pyg.GraphSizeNorm(),
    "mean_subtraction": pyg.MeanSubtractionNorm(),
    "pair_norm": pyg.PairNorm(scale_individually=True),
    "group_norm": pyg.DiffGroupNorm(6, 3),
}


def _readouts(self, x: Tensor, batch: Tensor) -> list[Tensor]:
    h = self.lin(x)
    return [getattr(self, name)(h, batch, dim_size=GRAPHS) for name in READOUTS]


READOUTS = {
    "attention": aggr.AttentionalAggregation(nn.Linear(6, 1), nn.Linear(6, 4)),
    "softmax": aggr.SoftmaxAggregation(learn=True),
    "power": aggr.PowerMeanAggregation(learn=True),
    "several": aggr.MultiAggregation(["mean", "max", "min", "std", "mul"]),
    "deep_sets": aggr.DeepSetsAggregation(nn.Linear(6, 4), nn.Linear(4, 3)),
    "preserving": aggr.VariancePreservingAggregation(),
}

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "pools": lambda: model_of(_pools),
    "norms": lambda: model_of(_norms, **NORMS),
    "readouts": lambda: model_of(_readouts, **READOUTS),
}


@pytest.mark.parametrize("name", LAYERS)
@examples(4)
@given(case=cases(min_nodes=4).map(with_batch))
def test_layers_over_graphs(name: str, case: Case) -> None:
    model, programs = compiled(name, LAYERS[name])
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


def _reversed(self, x: Tensor, edge_index: Tensor) -> list[Tensor]:
    return [getattr(self, name)(x, edge_index) for name in REVERSED]


REVERSED = {
    "attention": pyg.GATConv(5, 4, heads=2, flow="target_to_source"),
    "maximum": pyg.SAGEConv(5, 4, aggr="max", flow="target_to_source"),
    "several": pyg.SAGEConv(5, 4, aggr=["mean", "min", "std"], flow="target_to_source"),
    "edge": pyg.EdgeConv(nn.Linear(10, 4), aggr="max", flow="target_to_source"),
}


@examples(4)
@given(case=cases())
def test_layers_from_target_to_source(case: Case) -> None:
    model, programs = compiled("reversed", lambda: model_of(_reversed, **REVERSED))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)
