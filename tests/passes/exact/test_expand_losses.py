"""expand_losses: a mean loss is a sum divided by a count; captured class losses become ATen's again."""

from __future__ import annotations

import torch.nn.functional as F
from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.expand_losses import ExpandLosses


def _losses(self, x: Tensor, y: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    s = self.out(self.lin(x))
    masked = F.cross_entropy(s[mask], y[mask])
    return masked + F.mse_loss(s, target) + F.cross_entropy(s, y, reduction="sum")


def test_two_means_and_a_sum() -> None:
    check_pass(
        model_of(_losses),
        [],
        ExpandLosses(),
        "linear linear index index cross_entropy_loss ne sum div "
        "broadcast_tensors getitem getitem mse_loss sym_size mul div add cross_entropy_loss add",
        edits=3,
    )


def _weighted(self, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self.out(self.lin(x)), y, weight=self.weight[:3].detach())


def test_class_weights_divide_by_the_weights_of_the_targets() -> None:
    check_pass(
        model_of(_weighted),
        [],
        ExpandLosses(),
        "linear linear slice detach cross_entropy_loss ne mul index mul sum div",
        edits=1,
    )
