"""A graph that is made functional op by op computes what the model does, or is left to torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from graphshard.capture.clean import prepare
from graphshard.capture.composites import decompositions
from graphshard.capture.functional import Functional, by_torch, op_by_op

Forward = Callable[[Tensor], Any]


class Model(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def exported(forward: Forward, rows: int = 5) -> ExportedProgram:
    dim = Dim("rows", min=4, max=1 << 31)
    return torch.export.export(Model(forward), (torch.rand(rows, 3),), dynamic_shapes=({0: dim},))


def run(found: Functional, x: Tensor) -> Sequence[Any]:
    """The graph's values for an input, which stays as it is."""
    inputs = [found.constants.get(spec.target or "", x * 1) for spec in found.signature.input_specs]
    return tuple(fx.Interpreter(found.module).run(*inputs))


def check(forward: Forward, found: Functional) -> None:
    for rows in (4, 9):
        x = torch.arange(rows * 3.0).view(rows, 3) - 5
        expected = forward(x.clone())
        for theirs, ours in zip(
            expected if isinstance(expected, tuple) else (expected,), run(found, x), strict=True
        ):
            assert theirs.dtype == ours.dtype
            assert torch.equal(theirs, ours)


def written(x: Tensor) -> Tensor:
    zeros = torch.zeros(2, 3)
    zeros.index_add_(0, torch.arange(x.size(0)) % 2, x)
    return zeros


def read_between(x: Tensor) -> Tensor:
    y = x + 1
    before = y * 2
    y.mul_(3)
    y[:, 0].sum()
    return before + y.add_(1) + y


def power(x: Tensor) -> Tensor:
    y = x.abs() + 1
    y.pow_(-0.5)
    return y.masked_fill_(y == 1, 0.0)


POSSIBLE: dict[str, Forward] = {
    "nothing to do": lambda x: x.relu() + 1,
    "sum by index into zeros": written,
    "reads before and after": read_between,
    "power and mask": power,
    "over the result of a layer": lambda x: F.linear(x, torch.ones(2, 3)).relu_().softmax(1).mul_(2),
    "expand_as": lambda x: x.sum(0).expand_as(x) + x,
    "reshape and flatten": lambda x: x.reshape(-1, 3, 1).flatten(1) + x,
    "to another dtype": lambda x: x.to(torch.float64),
    "to the same dtype": lambda x: x.to(torch.float32) + 1,
    "contiguous": lambda x: x.t().contiguous() + 1,
    "dropout that does nothing": lambda x: F.dropout(x, 0.5, training=False) + 1,
    "a batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "a copy": lambda x: (x + 1).copy_(x * 2) + 1,
    "bilinear": lambda x: F.bilinear(x, x, torch.ones(2, 3, 3)),
    "tensordot": lambda x: torch.tensordot(x, torch.ones(3, 2), dims=([1], [0])),
    "a constant": lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    "fills": lambda x: (x + 1).fill_(2.0).index_put_((torch.tensor([0, 2]),), torch.tensor(3.0)),
    "rows of a view of zeros": lambda x: (
        torch.zeros(3).expand(2, 3).clone().index_put_((torch.tensor(0),), x[0])
    ),
}


def base_read_later(x: Tensor) -> Tensor:
    y = x + 1
    y[0].mul_(2)
    return y


def view_read_later(x: Tensor) -> Tensor:
    y = x + 1
    row = y[0]
    y.mul_(2)
    return row


def part_read_later(x: Tensor) -> Tensor:
    y = x + 1
    first, second, _ = y.unbind(1)
    first.add_(second)
    return y


def input_written(x: Tensor) -> Tensor:
    x.view(-1).mul_(2)
    return x + 1


def alias_that_no_schema_tells(x: Tensor) -> Tensor:
    y = x + 1
    torch.einsum("ij->ij", y).mul_(2)
    return y


def copy_of_another_dtype(x: Tensor) -> Tensor:
    return torch.zeros(3, dtype=torch.float64).copy_(x.sum(0))


def result_returned_twice(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    z = y.detach()
    return y.mul_(2), z


NOT: dict[str, Forward] = {
    "the base of a view that is written": base_read_later,
    "the view of a base that is written": view_read_later,
    "a part beside the one that is written": part_read_later,
    "an input that is written": input_written,
    "an alias that no schema tells": alias_that_no_schema_tells,
    "an alias that is returned": result_returned_twice,
    "a copy of another dtype": copy_of_another_dtype,
    "torch's own definition of a loss": lambda x: F.kl_div(x.log_softmax(1), x.softmax(1), reduction="sum"),
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_nothing_else_sees_is_done_op_by_op(name: str) -> None:
    forward = POSSIBLE[name]
    found = op_by_op(exported(forward))
    assert found is not None
    check(forward, found)
    for node in found.module.graph.nodes:
        assert node.target not in decompositions()
        assert node.op == "output" or "val" in node.meta


@pytest.mark.parametrize("name", NOT)
def test_what_something_else_may_see_is_left_to_torch(name: str) -> None:
    assert op_by_op(exported(NOT[name])) is None


class Counting(nn.Module):
    """Writes into buffers, in training by a norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("calls", torch.tensor(0))
        self.norm = nn.BatchNorm1d(3)
        self.total: Tensor
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        before = self.total * 2
        self.total.add_(x.sum(0)).mul_(3)
        self.calls += 1
        return self.norm(x) * self.calls + self.total + before


@pytest.mark.parametrize("training", [True, False])
def test_the_new_values_of_buffers_are_outputs(training: bool) -> None:
    model = Counting().train(training)
    program = torch.export.export(model, (torch.rand(5, 3),), dynamic_shapes=({0: Dim("rows", min=4)},))
    found = op_by_op(program)
    assert found is not None
    mutated = found.signature.buffers_to_mutate.values()
    assert set(mutated) == set(by_torch(program).signature.buffers_to_mutate.values())
    state = dict(model.state_dict())
    x = torch.rand(7, 3)
    inputs = [
        x if spec.target is None else state[spec.target].clone() for spec in found.signature.input_specs
    ]
    values = fx.Interpreter(found.module).run(*inputs)
    expected = model(x)
    assert torch.equal(values[-1], expected)
    for name, value in zip(mutated, values[:-1], strict=True):
        assert torch.equal(value, model.state_dict()[name])


def test_a_buffer_that_something_else_sees_is_left_to_torch() -> None:
    class Seen(Counting):
        def forward(self, x: Tensor) -> Tensor:
            row = self.total[:1]
            self.total.add_(x.sum(0))
            return x + row

    assert op_by_op(torch.export.export(Seen(), (torch.rand(5, 3),))) is None


def test_what_was_copied_from_is_not_written_later() -> None:
    def forward(x: Tensor) -> Tensor:
        y, z = x + 1, x * 2
        y.copy_(z)
        z.mul_(5)
        return y + z

    assert op_by_op(exported(forward)) is None


def test_gradients_are_those_of_the_model() -> None:
    def forward(x: Tensor) -> Tensor:
        y = (x * x).add_(1)
        with torch.no_grad():
            scale = y.sum(0)
        return y.mul_(3).index_add_(0, torch.tensor([0, 0, 1]), x[:3]) / scale.expand_as(x)

    found = prepare(exported(forward))  # the region without gradients is inlined
    for rows in (4, 7):
        ours = (torch.rand(rows, 3) + 0.5).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        forward(theirs).square().sum().backward()
        sum(value.square().sum() for value in run(found, ours)).backward()
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad)


# ---- random programs ---------------------------------------------------------------------------------------------

FRESH: list[Forward] = [lambda x: x + 1, lambda x: x * 2, lambda x: x.clone(), torch.relu, torch.abs]
VIEWS: list[Forward] = [
    lambda x: x[1:3],
    lambda x: x[:, :2],
    lambda x: x.detach(),
    lambda x: x.reshape(-1, x.size(1)),
    lambda x: x.t(),
    lambda x: x.narrow(1, 0, 1),
    lambda x: x.to(torch.float32),
    lambda x: x.contiguous(),
]
WRITES: list[Forward] = [
    lambda x: x.add_(1),
    lambda x: x.mul_(-2),
    lambda x: x.relu_(),
    lambda x: x.masked_fill_(x > 2, 0.5),
    lambda x: x.index_add_(0, torch.tensor([0]), x[-1:].clone()),
    lambda x: x.fill_(7.0),
    lambda x: x.clamp_(max=3.0),
]
STEPS = st.lists(
    st.tuples(st.sampled_from(["fresh", "view", "write"]), st.integers(0, 7), st.integers(0, 20)),
    min_size=1,
    max_size=8,
)


def program_of(steps: list[tuple[str, int, int]], returned: list[int]) -> Forward:
    ways = {"fresh": FRESH, "view": VIEWS, "write": WRITES}

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        values = [x + 0.5]
        for kind, which, of in steps:
            value = values[of % len(values)]
            values.append(ways[kind][which % len(ways[kind])](value))
        return tuple(values[i % len(values)].sum(0) for i in returned)

    return forward


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, returned=st.lists(st.integers(0, 20), min_size=1, max_size=3))
def test_random_programs_of_views_and_writes(steps: list[tuple[str, int, int]], returned: list[int]) -> None:
    forward = program_of(steps, returned)
    found = op_by_op(exported(forward))
    if found is not None:
        check(forward, found)
