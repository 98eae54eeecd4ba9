"""Reductions over the rows of all ranks: values, numbers of rows and gradients as on one machine, ties included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from support.equality import Compilations, check_equal
from support.programs import model_of
from support.strategies import Case, cases, examples, fixed_case
from torch import Tensor, nn

INF = float("inf")

EXTREMES: dict[str, Callable[[Tensor], Any]] = {
    "amax": lambda h: h.amax(0),
    "amin, dim kept": lambda h: h.amin(0, keepdim=True),
    "amax of all": lambda h: h.amax(),
    "max of all": lambda h: h.max(),
    "min of all": lambda h: h.min(),
    "aminmax": lambda h: torch.aminmax(h, dim=0),
    "aminmax of all": torch.aminmax,
}
NUMBERED: dict[str, Callable[[Tensor], Any]] = {
    "max": lambda h: h.max(0),
    "min, dim kept": lambda h: torch.min(h, 0, keepdim=True),
    "argmax": lambda h: h.argmax(0),
    "argmin, dim kept": lambda h: h.argmin(0, keepdim=True),
    "argmax of all": lambda h: h.argmax(),
    "argmin of one column": lambda h: h[:, 0].argmin(),
    "max of rows in another dim": lambda h: h.t().max(1),
}
SMOOTH: dict[str, Callable[[Tensor], Any]] = {
    "prod": lambda h: h.prod(0),
    "prod of all": lambda h: (h * 0.5).prod(),
    "variance and mean": lambda h: torch.var_mean(h, 0, correction=0),
    "deviation and mean of all": lambda h: torch.std_mean(h, unbiased=False),
    "a sum without NaN": lambda h: torch.where(h > 0, h, h / h.detach().clamp(max=0).abs()).nansum(0),
}
NORMS: dict[str, Callable[[Tensor], Any]] = {
    **{f"norm {p}": lambda h, p=p: torch.linalg.vector_norm(h, p, 0) for p in (0.5, 1, 1.5, 2, 3, INF, -INF)},  # type: ignore[misc]
    "norm of all": lambda h: h.norm(),
    "norm, dim kept": lambda h: h.norm(dim=0, keepdim=True),
}
COUNTS: dict[str, Callable[[Tensor], Any]] = {
    "any": lambda h: (h > 0).any(0),
    "any of all": lambda h: (h > 0).any(),
    "all": lambda h: (h > -1).all(0, keepdim=True),
    "count": lambda h: h.count_nonzero(0),
    "integers": lambda h: (h * 2).long().amax(0),
}
FAMILIES = {"extremes": EXTREMES, "numbered": NUMBERED, "smooth": SMOOTH, "norms": NORMS, "counts": COUNTS}


def _rows(x: Tensor, edge_index: Tensor, mask: Tensor) -> list[Tensor]:
    """Nodes, kept nodes, edges, and edges with nodes after them."""
    src, dst = edge_index
    return [x, x[mask], x[src] * 2 - x[dst], torch.cat([x[src], x])]


def _family(name: str) -> nn.Module:
    reductions = FAMILIES[name]

    def forward(self, x: Tensor, edge_index: Tensor, mask: Tensor) -> list[Any]:
        return [reduce(h) for h in _rows(x, edge_index, mask) for reduce in reductions.values()]

    return model_of(forward)


def _never_empty(case: Case) -> Case:
    """PyTorch's own extremes refuse no rows at all."""
    case.tensors["mask"][0] = True
    return case


_KEPT: dict[str, tuple[nn.Module, Compilations]] = {}


def compiled(name: str, make: Callable[[], nn.Module]) -> tuple[nn.Module, Compilations]:
    if name not in _KEPT:
        _KEPT[name] = make(), Compilations()
    return _KEPT[name]


@pytest.mark.parametrize("name", FAMILIES)
@examples(4)
@given(case=cases(min_nodes=2, min_edges=1).map(_never_empty))
def test_a_reduction(name: str, case: Case) -> None:
    model, programs = compiled(name, lambda: _family(name))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


def _along_rows(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, ...]:
    h = self.lin(x)
    along = h.softmax(0) * h, h[edge_index[0]].log_softmax(0), x.softmax(0, dtype=torch.float64)
    return *along, h.logsumexp(0), x.logsumexp((0, 1)), x - x.amax(0), nn.functional.normalize(h, dim=0)


@examples(4)
@given(case=cases(min_nodes=1, min_edges=1))
def test_along_the_rows(case: Case) -> None:
    model, programs = compiled("along rows", lambda: model_of(_along_rows))
    check_equal(model, case.tensors, case.assignment, case.parts, programs)


def test_ties_over_ranks_share_a_gradient() -> None:
    """Whole columns of one value: the gradient is spread over every row, or falls to the first one."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.amax(0), x.max(), x.max(0)[0], torch.linalg.vector_norm(x, INF, 0)

    case = fixed_case(parts=4)
    case.tensors["x"] = torch.full_like(case.tensors["x"], -2.0)
    check_equal(model_of(forward), case.tensors, case.assignment, case.parts)


def test_infinite_values_and_nan() -> None:
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.amax(0), x.amin(0), x.max(0)[0], x.argmax(0), x.max()

    case = fixed_case(parts=4)
    case.tensors["x"][3:5, 0] = INF
    case.tensors["x"][2:9, 1] = -INF
    model, programs = model_of(forward), Compilations()
    check_equal(model, case.tensors, case.assignment, case.parts, programs)
    for row in (0, 7, 23):
        case.tensors["x"][row, 2] = torch.nan
        check_equal(model, case.tensors, case.assignment, case.parts, programs)


def test_an_extreme_in_the_middle_of_a_model() -> None:
    """Its gradient joins others; a detached one has none to share."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x)
        h = (h - h.amin(0)) / (h.detach().amax(0) - h.detach().amin(0)) * h.prod()
        return (h - h[edge_index[0]].max(0)[0]) * self.weight.max()

    check_equal(model_of(forward), (case := fixed_case(parts=5)).tensors, case.assignment, case.parts)
