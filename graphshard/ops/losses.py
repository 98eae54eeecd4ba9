"""Class losses as opaque ops: their decomposition over masked rows fails (the row count is data-dependent).

They exist in a captured graph only; ``expand_losses`` turns them back into ATen ops before anything runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.ops.registration import Overload, fake, operator


def _loss_shape(input: Tensor, target: Tensor, reduction: int) -> Tensor:
    if reduction:
        return input.new_empty(())
    if target.is_floating_point():
        return input.new_empty((input.shape[0], *input.shape[2:]))
    return input.new_empty(target.shape)


@operator(
    "cross_entropy(Tensor input, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100,"
    " float label_smoothing=0.0) -> Tensor"
)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` with its arguments in ATen's form."""
    loss: Tensor = torch.ops.aten.cross_entropy_loss.default(
        input, target, weight, reduction, ignore_index, label_smoothing
    )
    return loss


@fake(cross_entropy)
def _cross_entropy_fake(
    input: Tensor, target: Tensor, _weight: Any = None, reduction: int = 1, *_: Any
) -> Tensor:
    return _loss_shape(input, target, reduction)


@operator(
    "nll_loss(Tensor input, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100)"
    " -> Tensor"
)
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: int = 1, ignore_index: int = -100
) -> Tensor:
    """``torch.nn.functional.nll_loss`` with its arguments in ATen's form."""
    loss: Tensor = torch.ops.aten.nll_loss_nd.default(input, target, weight, reduction, ignore_index)
    return loss


@fake(nll_loss)
def _nll_loss_fake(input: Tensor, target: Tensor, _weight: Any = None, reduction: int = 1, *_: Any) -> Tensor:
    return _loss_shape(input, target, reduction)


OPAQUE: dict[Overload, Overload] = {
    torch.ops.aten.cross_entropy_loss.default: cross_entropy,
    torch.ops.aten.nll_loss_nd.default: nll_loss,
}
"""Which captured op is hidden behind which opaque one."""
