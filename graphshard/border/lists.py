"""Functions of lists of tensors, as optimisers, moving averages and ``clip_grad_norm_`` call them: each by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import UnsupportedOperation
from graphshard.private import pytree
from graphshard.private.torch_functions import FOREACH_ELEMENT, foreach_norm
from graphshard.shard.placed import PlacedTensor, as_placed, plain


def _norms(_func: Callable[..., Any], args: Any, kwargs: Any) -> list[Tensor]:
    names = ("tensors", "ord", "dtype")
    given = dict(zip(names, args, strict=False)) | kwargs
    tensors = given.pop("tensors", given.pop("self", ()))
    return [
        torch.linalg.vector_norm(tensor, given.get("ord", 2), dtype=given.get("dtype")) for tensor in tensors
    ]


def _by_element(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What is computed element by element: on the parts, where entries in one place are laid out alike."""
    lists = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple))]
    like = [_laid_out_as(entries) for entries in zip(*lists, strict=True)]
    found = func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs))
    if found is None:
        return None
    return [
        part if first is None else as_placed(part, first.origin)
        for part, first in zip(found, like, strict=True)
    ]


def _laid_out_as(entries: Sequence[Any]) -> PlacedTensor | None:
    placed = [value for value in entries if isinstance(value, PlacedTensor)]
    plain_ones = [v for v in entries if isinstance(v, Tensor) and not isinstance(v, PlacedTensor) and v.dim()]
    if not placed:
        return None
    rows = [value for value in placed if not value.placement.replicated]
    dims = {value.placement.dims for value in placed if value.dim()}
    if rows and (len(dims) > 1 or plain_ones):
        raise UnsupportedOperation(
            "the tensors that stand in one place of its lists have different rows: call the function without lists"
        )
    return rows[0] if rows else placed[0]


LISTS: Mapping[Any, Callable[..., Any]] = {
    foreach_norm: _norms,
    **dict.fromkeys(FOREACH_ELEMENT, _by_element),
}
"""What ``graphshard.border.functions`` answers for them."""
