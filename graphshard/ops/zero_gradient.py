"""Zeros as the gradients of values that a program no longer reads, where one machine's backward gives zeros.

Passes leave out what cannot change a result: a row of ``cat([a, b])`` that is cut off again takes ``b`` with it. Its
gradient is zero on one machine and would be None here, and an optimiser with weight decay moves the one and not
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.ops.registration import none_of_none


@none_of_none
class _WithZeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, *values: Tensor) -> Tensor:
        ctx.like = [(v.shape, v.dtype, v.device) for v in values]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        zeros = [torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.like]
        return grad, *(z if need else None for z, need in zip(zeros, ctx.needs_input_grad[1:], strict=True))


def with_zero_gradients(output: Tensor, values: Sequence[Tensor]) -> Tensor:
    """``output`` itself; a backward through it gives each of ``values`` a gradient of zeros.

    Args:
        output: floating, any shape.
        values: floating; those that require no gradient are left alone.
    """
    wanted = [v for v in values if v.requires_grad]
    if not wanted or not torch.is_grad_enabled():
        return output
    return _WithZeros.apply(output, *wanted)  # type: ignore[no-untyped-call, no-any-return]
