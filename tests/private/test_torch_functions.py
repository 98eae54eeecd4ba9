"""What ``graphshard.private.torch_functions`` relies on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphshard.private import torch_functions

pytestmark = pytest.mark.versions


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def test_apply_of_a_function_can_be_replaced_and_bound_again() -> None:
    """``autograd.Function.apply`` is a classmethod that stands in the class, of Python or of C."""
    x, seen = torch.ones(2, requires_grad=True), []
    apply = torch_functions.function_apply()

    def watch(cls: type, *args: Any) -> Any:
        seen.append(cls)
        return torch_functions.bound_apply(apply, cls)(*args)

    with torch_functions.replaced_apply(classmethod(watch)):
        y = Double.apply(x)
        with torch_functions.replaced_apply(apply):
            Double.apply(x)
    assert seen == [Double]
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.full([2], 2.0))
    Double.apply(x)
    assert seen == [Double], "apply is not as it was"


def test_the_backward_of_a_library_op_is_a_function_of_torch_library_autograd() -> None:
    """An op with ``register_autograd`` is applied by an ``autograd.Function`` of ``torch._library.autograd``."""
    seen: list[type] = []
    apply = torch_functions.function_apply()

    def watch(cls: type, *args: Any, **kwargs: Any) -> Any:
        seen.append(cls)
        return torch_functions.bound_apply(apply, cls)(*args, **kwargs)

    @torch.library.custom_op("graphshard_test::thrice", mutates_args=())
    def thrice(x: Tensor) -> Tensor:
        return x * 3

    thrice.register_autograd(lambda ctx, grad: grad * 3)
    with torch_functions.replaced_apply(classmethod(watch)):
        thrice(torch.ones(2, requires_grad=True))
    assert seen
    assert all(map(torch_functions.is_of_library_op, seen)), f"they are of {[c.__module__ for c in seen]}"
    assert not torch_functions.is_of_library_op(Double)


def test_margin_losses_call_functions_of_torch_c_nn() -> None:
    """``F.multi_margin_loss`` and ``F.multilabel_margin_loss`` end in ``torch._C._nn``, with these arguments."""
    seen: dict[str, tuple[Any, ...]] = {}

    def multi(input: Tensor, target: Tensor, p: int, margin: float, weight: Any, reduction: int) -> Tensor:
        seen["multi"] = (p, margin, weight, reduction)
        return input

    def multilabel(input: Tensor, target: Tensor, reduction: int) -> Tensor:
        seen["multilabel"] = (reduction,)
        return input

    x, y = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    with torch_functions.replaced_losses(multi_margin_loss=multi, multilabel_margin_loss=multilabel):
        F.multi_margin_loss(x, y, p=2, margin=0.5, reduction="sum")
        F.multilabel_margin_loss(x, torch.zeros(2, 3, dtype=torch.int64), reduction="none")
    assert seen == {"multi": (2, 0.5, None, 2), "multilabel": (0,)}
    assert F.multi_margin_loss(x, y).dim() == 0, "the functions are not as they were"


def test_torch_sparse_mm_is_called_sparse_mm_inside() -> None:
    """``__torch_function__`` is given ``torch.sparse.mm`` under the ``__name__`` of ``_sparse_mm``."""
    seen: list[str] = []

    class Matrix:
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)

    torch.sparse.mm(Matrix(), torch.ones(2, 2))  # type: ignore[arg-type]
    assert seen == [torch_functions.SPARSE_MM]


def test_a_dispatch_mode_sees_the_ops_of_a_function() -> None:
    """``TorchDispatchMode.__torch_dispatch__`` is given overloads, whose text names them."""
    seen: list[str] = []

    class Watch(torch_functions.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.ones(2).relu()
    assert seen[-1] == "aten.relu.default"


def test_a_guard_calls_ops_below_autograd() -> None:
    """Inside of ``torch._C._AutoDispatchBelowAutograd`` an op's result has no gradient."""
    x = torch.ones(2, requires_grad=True)
    with torch_functions.BelowAutograd():
        assert not torch.ops.aten.mul.Tensor(x, x).requires_grad
    assert torch.ops.aten.mul.Tensor(x, x).requires_grad


def test_a_transform_of_functions_is_on_a_stack() -> None:
    """``torch._C._functorch.peek_interpreter_stack`` is None outside of ``torch.func``."""
    seen = []

    def square(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch_functions.in_transform())
        return (x * x).sum()

    torch.func.grad(square)(torch.ones(2))
    assert seen == [True]
    assert not torch_functions.in_transform()
