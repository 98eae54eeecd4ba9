"""verify on models that leave something behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphshard


class KeepsATensor(nn.Module):
    """As PyG's VGAE keeps its latent variables for the loss: tensors with a gradient, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.kept = self.lin(x)
        return torch.zeros_like(self.kept).index_add(0, edge_index[1], self.kept[edge_index[0]])


def test_a_model_that_keeps_a_tensor_of_its_last_call() -> None:
    torch.manual_seed(0)
    data = {"x": torch.rand(9, 3), "edge_index": torch.randint(0, 9, (2, 20))}
    model = KeepsATensor()
    assert graphshard.verify(model, data, 2, modes=["train"]).passed
    assert "kept" not in vars(model)


class Scaled(nn.Module):
    """The in-degrees are constants of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        degree = x.new_zeros(x.size(0)).index_add(0, dst, torch.ones_like(dst, dtype=x.dtype)) + 1
        h = self.lin(x) / degree.sqrt().unsqueeze(-1)
        return torch.zeros_like(h).index_add(0, dst, h[src].sigmoid())


def test_constants_that_are_wrong_in_the_second_step_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step keeps of the graph is verified as it is used, not only as it is computed."""
    from graphshard.execute import constants as hoisted

    compute = hoisted._compute

    def stale(part: Any, inputs: Any) -> list[Any]:
        values = compute(part, inputs)
        return [v * 1.001 if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in values]

    monkeypatch.setattr(hoisted, "_compute", stale)
    graph = {"x": torch.rand(9, 3), "edge_index": torch.randint(0, 9, (2, 30))}
    report = graphshard.verify(Scaled, graph, 2, modes=["eval"])
    assert not report.passed
    assert {row.kind for row in report.rows if not row.passed} == {
        "output, second step",
        "gradient, second step",
    }


class Root(nn.Module):
    """NaN wherever its argument is negative."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.lin, self.shift = nn.Linear(3, 3), shift

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.zeros_like(x).index_add(0, edge_index[1], self.lin(x)[edge_index[0]])
        return h, torch.sqrt(self.shift - h.abs())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_value_that_is_nan_everywhere_proves_nothing(dtype: torch.dtype) -> None:
    data = {"x": torch.rand(9, 3), "edge_index": torch.randint(0, 9, (2, 20))}
    report = graphshard.verify(lambda: Root(-1.0), data, 2, modes=["eval"], dtype=dtype)
    assert not report.passed
    failed = {row.name for row in report.failures if row.kind == "output"}
    assert failed == {"1"}
    assert "is NaN everywhere on one machine: nothing was proved" in report.summary()


def test_a_value_that_is_nan_in_some_rows_is_compared_by_the_others() -> None:
    torch.manual_seed(0)
    data = {"x": torch.rand(30, 3), "edge_index": torch.randint(0, 30, (2, 60))}
    model = Root(1.0).double()
    _, roots = model(data["x"].double(), data["edge_index"])
    assert roots.isnan().any()
    assert not roots.isnan().all()
    outputs = [r for r in graphshard.verify(model, data, 2, modes=["eval"]).rows if r.kind == "output"]
    assert outputs
    assert all(row.passed for row in outputs)


def test_data_with_nan_is_not_verified_silently() -> None:
    data = {"x": torch.full((9, 3), torch.nan), "edge_index": torch.randint(0, 9, (2, 20))}
    assert not graphshard.verify(Scaled, data, 2, modes=["train"]).passed


class CallsDropout(nn.Module):
    """By the function that ``F.dropout`` is written in."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = torch.dropout(self.lin(x), 0.5, self.training)
        return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])


def test_dropout_by_the_function_of_torch() -> None:
    graph = {"x": torch.rand(9, 3), "edge_index": torch.randint(0, 9, (2, 30))}
    assert graphshard.verify(CallsDropout(), graph, 2).passed
