"""Functions that capture replaces: the same values, and the same gradients at a kink and between ties."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.equality import check_equal
from support.programs import model_of
from support.strategies import fixed_case
from torch import Tensor

from graphshard.capture.functions import capturable_functions

pytestmark = pytest.mark.versions


def test_margins_of_zero_have_the_gradient_of_the_kernels() -> None:
    """With small integers as scores many margins are exactly 0."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
        labels = torch.where(F.one_hot(z, 5).cumsum(1) > 0, -1, torch.arange(5))
        return [
            F.multi_margin_loss(x, y),
            F.multi_margin_loss(x, y, p=2, margin=2.0, weight=self.weight[:5].detach(), reduction="none"),
            F.multi_margin_loss(x, y, reduction="sum"),
            F.multilabel_margin_loss(x, labels),
            F.multilabel_margin_loss(x, labels, reduction="none"),
        ]

    case = fixed_case(parts=3, ties=True)
    check_equal(model_of(forward), case.tensors, case.assignment, case.parts)


def test_losses_of_one_row() -> None:
    scores, label, labels = torch.tensor([0.0, 1.0, 0.0]), torch.tensor(2), torch.tensor([2, -1, 0])
    expected = F.multi_margin_loss(scores, label), F.multilabel_margin_loss(scores, labels)
    with capturable_functions():
        assert F.multi_margin_loss(scores, label) == expected[0]
        assert F.multilabel_margin_loss(scores, labels) == expected[1]


@pytest.mark.parametrize("flat", [False, True])
def test_take_along_dim(flat: bool) -> None:
    table = torch.arange(12.0).view(3, 4)
    index = torch.tensor([5, 0]) if flat else torch.tensor([[2], [0], [1], [1]])
    dims = () if flat else (0,)
    expected = torch.take_along_dim(table, index, *dims)
    with capturable_functions():
        assert torch.equal(torch.take_along_dim(table, index, *dims), expected)
        assert torch.equal(table.take_along_dim(index, *dims), expected)


def test_take_along_dim_by_source() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.lin(x).take_along_dim(edge_index[0][:, None], 0).tanh()

    case = fixed_case(parts=3)
    check_equal(model_of(forward), case.tensors, case.assignment, case.parts)
