"""The quick checksum of a tensor: what it notices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphshard.ranks.checksums import quick_checksum

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64)


def seen(tensor: Tensor) -> list[int]:
    return quick_checksum(tensor).tolist()  # type: ignore[no-any-return]


@given(st.sampled_from(DTYPES), st.integers(1, 300), st.integers(1, 7), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_write_into_a_small_tensor_is_seen(
    dtype: torch.dtype, rows: int, width: int, place: int, transposed: bool
) -> None:
    tensor = torch.ones(rows, width).to(dtype)
    tensor = tensor.t() if transposed else tensor
    before = seen(tensor)
    assert before == seen(tensor.clone())
    tensor[(place % tensor.numel()) // tensor.size(1), place % tensor.size(1)] = 0
    assert seen(tensor) != before


def test_exchanged_rows_are_seen() -> None:
    tensor = torch.arange(60.0).reshape(20, 3)
    assert seen(tensor) != seen(tensor.flip(0))


@pytest.mark.parametrize("shape", [(600_000, 2), (3, 500_000), (1_200_000,)])
def test_of_a_large_tensor_a_write_of_many_rows_is_seen(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    for view in (tensor, tensor[..., ::2], tensor.t()):
        before = seen(view)
        view[: view.size(0) // 3 + 1] *= 2
        assert seen(view) != before


@pytest.mark.parametrize("tensor", [torch.zeros(0), torch.zeros(0, 3), torch.zeros(4, 0), torch.tensor(1.0)])
def test_of_almost_nothing(tensor: Tensor) -> None:
    assert len(seen(tensor)) == 3


def test_of_a_sparse_tensor() -> None:
    one = torch.eye(3).to_sparse()
    assert seen(one) != seen(one * 2)
