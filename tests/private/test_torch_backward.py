"""What ``graphshard.private.torch_backward`` relies on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphshard.private.torch_backward import watched_backward

pytestmark = pytest.mark.versions


def test_each_tensor_that_is_differentiated_is_seen_once() -> None:
    """``Tensor.backward`` and ``torch.autograd.backward``; not ``torch.autograd.grad``, nor after the block."""
    seen: list[Tensor] = []
    x = torch.ones(2, requires_grad=True)
    with watched_backward(seen.append):
        (3 * x).sum().backward()
        torch.autograd.backward([(2 * x).sum(), x], [None, torch.ones(2)])
        torch.autograd.grad(x.sum(), x)
    x.sum().backward()
    assert [t.tolist() for t in seen] == [6.0, 4.0, [1.0, 1.0]]
    assert x.grad is not None
    assert x.grad.tolist() == [7.0, 7.0]
