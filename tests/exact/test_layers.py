"""Layers, norms and activations: any graph, any partition, the same numbers as on one machine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from support.equality import Compilations, check_equal
from support.models import LAYERS, ON_LARGER, ROWS, WRITTEN, Sparse, make
from support.strategies import Case, cases, examples, fixed_case

_KEPT: dict[str, tuple[torch.nn.Module, Compilations]] = {}

few = examples(5)

ON_EVERY_VERSION = ("gcn", "sage mean", "sage max", "gat", "gatv2", "gin", "transformer", "gated graph")
"""Layers that between them capture to most kinds of ops."""


def compiled(name: str, factory, *, train: bool = True) -> tuple[torch.nn.Module, Compilations]:
    """The model of that name and its programs, compiled once for the whole run."""
    if name not in _KEPT:
        _KEPT[name] = make(factory), Compilations()
    model, programs = _KEPT[name]
    return model.train(train), programs


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.versions if n in ON_EVERY_VERSION else ()) for n in LAYERS],
)
@few
@given(case=cases())
def test_a_layer(name: str, case: Case) -> None:
    model, programs = compiled(name, LAYERS[name])
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.parametrize("name", ROWS)
@few
@given(case=cases(min_nodes=2))
def test_a_norm_or_an_activation(name: str, case: Case) -> None:
    model, programs = compiled(name, ROWS[name])
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.parametrize("name", [n for n in ROWS if "norm" in n])
def test_a_norm_in_eval_mode(name: str) -> None:
    model, programs = compiled(name, ROWS[name], train=False)
    case = fixed_case(parts=4)
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.parametrize("name", WRITTEN)
@few
@given(case=cases())
def test_a_model_written_by_hand(name: str, case: Case) -> None:
    model, programs = compiled(name, WRITTEN[name])
    tolerance = 1e-5 if name == "Embedded" else 1e-9  # it has a layer in single precision
    check_equal(model, case.tensors, case.assignment, case.parts, programs, tolerance=tolerance)


@pytest.mark.parametrize("name", ON_LARGER)
@few
@given(case=cases(min_nodes=3, min_edges=3))
def test_a_model_written_by_hand_with_variances(name: str, case: Case) -> None:
    model, programs = compiled(name, ON_LARGER[name])
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


@pytest.mark.versions
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@few
@given(case=cases())
def test_a_sparse_adjacency(layout: torch.layout, case: Case) -> None:
    model, programs = compiled(f"sparse {layout}", Sparse)
    src, dst = case.tensors["edge_index"]
    n = case.assignment.numel()
    adjacency = torch.sparse_coo_tensor(
        torch.stack([dst, src]), case.tensors["edge_weight"], (n, n)
    ).coalesce()
    tensors = {"x": case.tensors["x"], "adj": adjacency.to_sparse(layout=layout)}
    check_equal(model, tensors, case.assignment, case.parts, programs)
