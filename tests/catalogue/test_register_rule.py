"""Rules of users: the documented example runs, and nothing is replaced by accident."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.equality import check_equal
from support.programs import model_of, refusal
from support.repository import DOCS
from support.strategies import fixed_case
from torch import Tensor

import graphshard
from graphshard.catalogue.table import USER_RULES
from graphshard.rules import Call, Placed, register_rule, replicated

DOCUMENT = DOCS / "rules.md"


@pytest.fixture(autouse=True)
def _forget_rules() -> Iterator[None]:
    before = dict(USER_RULES)
    yield
    USER_RULES.clear()
    USER_RULES.update(before)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The names that the document's example defines; its op can be defined once only."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    USER_RULES.clear()
    return names


def _model(example: dict[str, Any]):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = example["robust_scale"](self.lin(x))
        return h.index_add(0, edge_index[1], h[edge_index[0]])

    return model_of(forward)


def test_the_documented_rule(example: dict[str, Any]) -> None:
    assert "has no placement rule" in refusal(_model(example))
    graphshard.register_rule(example["robust_scale"])(example["robust_scale_rule"])
    for parts in (2, 4):
        case = fixed_case(parts=parts)
        check_equal(_model(example), case.tensors, case.assignment, parts)


def test_the_documented_rule_refuses(example: dict[str, Any]) -> None:
    register_rule(example["robust_scale"])(example["robust_scale_rule"])

    def forward(self, x: Tensor) -> Tensor:
        return example["robust_scale"](self.lin(x).t()).t()

    assert "takes the median over rows" in refusal(model_of(forward))


def test_a_rule_that_forgets_an_argument_is_found_out(example: dict[str, Any]) -> None:
    register_rule(torch.ops.mylib.robust_scale)(lambda call: replicated(2))
    assert "does not look at its argument" in refusal(_model(example))


@pytest.mark.parametrize(
    "op", [torch.ops.aten.linear.default, torch.ops.aten.softmax, torch.ops.aten.add.Tensor]
)
def test_a_built_in_rule_is_not_replaced(op: Any) -> None:
    with pytest.raises(graphshard.GraphshardError, match="override=True"):
        register_rule(op)


def test_override() -> None:
    @register_rule(torch.ops.aten.tanh.default, override=True)
    def no_tanh(call: Call) -> Placed:
        call.refuse("is not wanted here")

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x).tanh()

    assert refusal(model_of(forward)).startswith("aten.tanh is not wanted here")


def test_what_is_no_op() -> None:
    with pytest.raises(graphshard.GraphshardError, match="takes an op"):
        register_rule(torch.nn.functional.relu)
