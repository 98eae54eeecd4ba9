"""Equal exported graphs are decomposed once, and only equal ones."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from graphshard.capture.functional import equal_graphs_once, fingerprint, functional


class Layer(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], tied: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        if tied:
            self.second.weight = self.first.weight
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def exported(
    function: Callable[[Tensor], Tensor], tied: bool = False, dtype: torch.dtype = torch.float32
) -> ExportedProgram:
    rows = {0: torch.export.Dim("rows")}
    return torch.export.export(
        Layer(function, tied).to(dtype), (torch.rand(3, 2, dtype=dtype),), dynamic_shapes=(rows,)
    )


def plus(number: float) -> ExportedProgram:
    return exported(lambda x: x + number)


def plus_constant(number: float) -> ExportedProgram:
    return exported(lambda x: x + torch.tensor([number, 1.0]))


def count_decompositions(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    counted: list[ExportedProgram] = []
    real = ExportedProgram.run_decompositions

    def counting(self: ExportedProgram, *args: object) -> ExportedProgram:
        counted.append(self)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counting)
    return counted


def test_equal_graphs_are_decomposed_once_inside_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_decompositions(monkeypatch)

    def inside_and_outside() -> None:
        with equal_graphs_once():
            first, second = functional(plus_constant(2.0)), functional(plus_constant(2.0))
        assert len(counted) == 1
        assert str(first.module.graph) == str(second.module.graph)
        functional(plus_constant(2.0))

    contextvars.Context().run(inside_and_outside)  # the tests are inside of a block of their own
    assert len(counted) == 2


def test_who_edits_one_does_not_edit_another() -> None:
    with equal_graphs_once():
        first, second = functional(plus(2.0)), functional(plus(2.0))
        before = str(second.module.graph)
        (output,) = first.module.graph.find_nodes(op="output")
        output.meta["mine"] = True
        output.args = ((next(iter(first.module.graph.nodes)),),)
        first.module.graph.eliminate_dead_code()
        third = functional(plus(2.0))
    for found in (second, third):
        assert str(found.module.graph) == before
        assert "mine" not in found.module.graph.find_nodes(op="output")[0].meta


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: plus(1.0), lambda: plus(2.0)),
        (lambda: plus(1.0), lambda: plus(1)),
        (lambda: plus_constant(1.0), lambda: plus_constant(1.0 + 2**-20)),
        (lambda: exported(torch.relu), lambda: exported(torch.relu_)),
        (lambda: exported(torch.relu), lambda: exported(torch.relu, tied=True)),
        (lambda: exported(torch.relu), lambda: exported(torch.relu, dtype=torch.float64)),
    ],
    ids=["number", "float or int", "constant", "in place", "tied", "dtype"],
)
def test_what_differs_has_another_fingerprint(
    one: Callable[[], ExportedProgram], other: Callable[[], ExportedProgram]
) -> None:
    assert fingerprint(one()) == fingerprint(one())
    assert fingerprint(one()) != fingerprint(other())
