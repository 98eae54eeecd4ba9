"""Dropouts as one kernel against the formula that they stand for: the same bits, gradients and second gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import examples
from torch import Tensor

from graphshard.kernels.interface import using
from graphshard.kernels.random_bits import random_bits, random_key
from graphshard.ops import dropout

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 6e4)


@pytest.fixture(params=["torch", "numba"], autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "numba":
        pytest.importorskip("numba")
    with using(request.param):
        yield request.param


def formula(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Tensor, site: int) -> Tensor:
    """x times a mask that is made first: three int64 tensors, each with an element for each of x."""
    if p >= 1:
        return x * 0
    rows = x.movedim(dim, 0) if x.dim() else x.reshape(1)
    if ids is None:
        ids = torch.arange(rows.size(0))
    width = rows[:1].numel() if rows.size(0) else 0
    keep = (random_bits(ids, width, key.tolist(), site) >= int(p * (1 << 53))).view(rows.shape)
    keep = keep.movedim(0, dim) if x.dim() else keep.reshape(())
    return x * (keep.to(x.dtype) / (1 - p))


def rectified(x: Tensor, *mask: Any) -> Tensor:
    """A relu and a dropout, one after the other, by torch."""
    return formula(torch.relu(x), *mask)


def in_place(x: Tensor, *mask: Any) -> Tensor:
    return dropout.relu_dropout_(x * 1, *mask)


PAIRS: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
    (dropout.dropout_rows, formula),
    (dropout.relu_dropout, rectified),
    (in_place, rectified),
]
pairs = pytest.mark.parametrize(
    ("ours", "literal"), PAIRS, ids=["dropout", "relu_dropout", "relu_dropout_in_place"]
)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the sign of zero; any NaN is as good as another."""
    kind = INTEGERS[a.element_size()]
    alike = (a.contiguous().view(kind) == b.contiguous().view(kind)) | (a.isnan() & b.isnan())
    return a.dtype == b.dtype and a.shape == b.shape and bool(alike.all())


def order_of(t: Tensor) -> list[int]:
    """The strides that matter."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1] if t.numel() else []


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int, layout: str) -> Tensor:
    """Random numbers, a fourth of them special, in another order of memory or with gaps where wanted."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    odd = torch.randint(len(SPECIAL), shape, generator=random)
    x = torch.where(torch.rand(shape, generator=random) < 0.25, torch.tensor(SPECIAL).double()[odd], x)
    x = x.to(dtype)
    if layout == "transposed" and x.dim():
        return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    if layout == "strided" and x.dim():
        return torch.stack([x, x], -1)[..., 0]
    return x


masks = st.fixed_dictionaries(
    {
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 67]), max_size=3).map(tuple),
        "dim": st.integers(0, 2),
        "p": st.sampled_from([0.0, 0.1, 0.5, 0.999, 1.0]),
        "key": st.tuples(st.sampled_from([0, 7, 2**63 - 1, 2**64 - 1]), st.integers(0, 9)),
        "site": st.integers(0, 3),
        "ids": st.sampled_from(["none", "nodes", "edges", "strided"]),
        "dtype": st.sampled_from(DTYPES),
        "layout": st.sampled_from(["plain", "transposed", "strided"]),
        "seed": st.integers(0, 99),
    }
)


def arguments(case: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...]]:
    x = numbers(case["shape"], case["dtype"], case["seed"], case["layout"])
    dim = case["dim"] % max(x.dim(), 1)
    rows = x.size(dim) if x.dim() else 1
    random = torch.Generator().manual_seed(case["seed"])
    ids = {
        "none": None,
        "nodes": torch.randperm(rows, generator=random),
        "edges": torch.randint(2**40, (rows,), generator=random) + (3 << 48),
        "strided": torch.arange(2 * rows)[::2],
    }[case["ids"] if x.dim() else "none"]
    return x, (ids, dim, case["p"], random_key(*case["key"]), case["site"])


@pairs
@examples(40)
@given(case=masks)
def test_the_same_bits(
    kernels: str, ours: Callable[..., Tensor], literal: Callable[..., Tensor], case: dict[str, Any]
) -> None:
    x, mask = arguments(case)
    if case["p"] >= 1 and ours is not dropout.dropout_rows:
        return  # is left alone by the pass
    x.requires_grad_()
    wanted, found = literal(x, *mask), ours(x, *mask)
    assert same_bits(wanted, found)
    assert order_of(wanted) == order_of(found)
    cotangent = numbers(tuple(wanted.shape), x.dtype, 1 + case["seed"], "plain")
    (expected,) = torch.autograd.grad(wanted, x, cotangent)
    for graph in (False, True):
        (got,) = torch.autograd.grad(ours(x, *mask), x, cotangent, create_graph=graph)
        assert same_bits(expected, got)


@pairs
def test_gradients_of_gradients(ours: Callable[..., Tensor], literal: Callable[..., Tensor]) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64, generator=random).requires_grad_()
    mask = (torch.arange(7) * 3, 0, 0.4, random_key(1, 2), 0)
    assert torch.autograd.gradcheck(lambda t: ours(t, *mask), x)
    assert torch.autograd.gradgradcheck(lambda t: ours(t, *mask), x)
    # A parameter whose second gradient is 0 has one all the same: an optimiser tells 0 from none.
    cotangent = torch.ones_like(x).requires_grad_()
    for function in (ours, literal):
        (first,) = torch.autograd.grad(function(x, *mask), x, cotangent, create_graph=True)
        zeros = torch.autograd.grad(first.sum(), x, allow_unused=True, retain_graph=True)[0]
        assert (zeros is None) == (ours is dropout.dropout_rows)
        assert zeros is None or not zeros.any()


@pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_several_threads(
    ours: Callable[..., Tensor], literal: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    x = numbers((301, 130), dtype, 0, "plain").requires_grad_()
    mask = (torch.arange(301), 0, 0.3, random_key(1, 2), 1)
    wanted, before = literal(x, *mask), torch.get_num_threads()
    (expected,) = torch.autograd.grad(wanted.sum(), x)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = ours(x, *mask)
            assert same_bits(wanted, found)
            assert same_bits(expected, torch.autograd.grad(found.sum(), x)[0].contiguous())
    finally:
        torch.set_num_threads(before)


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of the largest tensor that an op makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return out


@pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS])
def test_no_mask_is_made(ours: Callable[..., Tensor]) -> None:
    """No tensor is larger than x, and what is kept is a sixteenth of it (a fourth, by torch)."""
    x = torch.randn(40_000, 64).requires_grad_()
    kept: list[Tensor] = []
    with _Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
            out = ours(x, torch.arange(40_000), 0, 0.5, random_key(1, 2), 0)
        out.sum().backward()
    assert largest.bytes <= max(x.numel() * x.element_size(), 8 << 20)
    assert sum(t.numel() * t.element_size() for t in kept) <= x.numel() * x.element_size() // 4 + 8 * 40_000
