"""Results over the memory of an operand that nobody reads again."""

from __future__ import annotations

from support.faster_models import sums
from support.programs import before_pass, check_faster, model_of
from torch import Tensor

PASS = "work_in_place"


def test_a_sum_of_products_and_a_rectifier() -> None:
    check_faster(sums, PASS, "linear t addmm_ relu_ add", 2)


def kept_for_backward(self, x: Tensor) -> Tensor:
    return self.lin(x).tanh() + x[:, :1]  # tanh keeps its result


def read_again(self, x: Tensor) -> tuple[Tensor, Tensor]:
    h = self.lin(x)
    return h.relu(), h


def a_view(self, x: Tensor) -> Tensor:
    return self.lin(x).view(-1, 3, 2).relu()


def test_what_may_not_be_written_over() -> None:
    for forward in (kept_for_backward, read_again, a_view):
        program, step = before_pass(model_of(forward), PASS)
        assert step.run(program) == 0


def read_by_backward(self, x: Tensor) -> Tensor:
    return (self.lin(x).relu() + self.weight).tanh()


def test_a_rectifier_keeps_its_result_for_backward() -> None:
    check_faster(read_by_backward, PASS, "linear relu_ add tanh", 1)
