"""PyTorch functions that an export traces wrongly or not at all, each by its own definition.

=========================  ====================================================================================
``multi_margin_loss``      torch.export takes both apart with ``clamp_min``, whose gradient at a margin of exactly
``multilabel_margin_loss`` 0 is 1; PyTorch's own kernels, and ``relu``, have 0 there
``take_along_dim``         its C++ compares sizes as plain numbers, which fixes the number of rows
``split``, ``chunk``       their C++ counts the pieces, which fixes the number of rows; here one piece is the tensor
=========================  ====================================================================================
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from graphshard.capture.examples import MOST_ROWS
from graphshard.private.symbolic_sizes import is_same_size
from graphshard.private.torch_functions import replaced_losses


@contextlib.contextmanager
def capturable_functions() -> Iterator[None]:
    """While a model is exported: these functions by definitions that can be captured."""
    with (
        replaced_losses(multi_margin_loss=_multi_margin_loss, multilabel_margin_loss=_multilabel_margin_loss),
        mock.patch.object(torch, "take_along_dim", _take_along_dim),
        mock.patch.object(Tensor, "take_along_dim", _take_along_dim),
        contextlib.ExitStack() as patches,
    ):
        for owner, name in product((torch, Tensor), _CUTS):
            patches.enter_context(mock.patch.object(owner, name, _whole_or(getattr(owner, name))))
        yield


_CUTS = ("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")


def _whole_or(cut: Callable[..., Any]) -> Callable[..., Any]:
    """``split`` or ``chunk``, and the tensor itself where there is one piece for any number of rows."""

    @functools.wraps(cut)
    def pieces(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # it has no expressions of symbols to compare
            return cut(tensor, *args, **kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        size = args[0] if args else next((value for name, value in kwargs.items() if name != "dim"), None)
        if _is_one_piece("chunk" in cut.__name__, size, tensor.size(dim)):
            return (tensor,)
        return cut(tensor, *args, **kwargs)

    return pieces


def _is_one_piece(chunks: bool, size: Any, rows: Any) -> bool:
    """Whether a cut into so many chunks, or into pieces of this size, leaves any number of ``rows`` together."""
    if chunks:
        return isinstance(size, int) and size == 1
    if isinstance(size, int):
        return size >= MOST_ROWS
    if isinstance(size, (list, tuple)) and len(size) == 1:
        (size,) = size
    return is_same_size(size, rows)


def _multi_margin_loss(
    input: Tensor, target: Tensor, p: int, margin: float, weight: Tensor | None, reduction: int
) -> Tensor:
    """``torch.nn.MultiMarginLoss``: ``sum over i != y of max(0, margin - x[y] + x[i])^p / C`` for each row."""
    rows, y = torch.atleast_2d(input), torch.atleast_1d(target).unsqueeze(1)  # type: ignore[no-untyped-call]
    excess = (margin - rows.gather(1, y) + rows).relu()
    if p == 2:
        excess = excess.square()
    if weight is not None:
        excess = excess * weight[y]
    classes = torch.arange(rows.size(1), device=rows.device)
    terms = torch.where(classes == y, 0.0, excess).mean(1)
    return _reduced(terms if input.dim() > 1 else terms.squeeze(0), reduction)


def _multilabel_margin_loss(input: Tensor, target: Tensor, reduction: int) -> Tensor:
    """``torch.nn.MultiLabelMarginLoss``: the labels of a row are those before its first -1."""
    rows, labels = torch.atleast_2d(input), torch.atleast_2d(target)  # type: ignore[no-untyped-call]
    listed = (labels < 0).cumsum(1) == 0
    known = torch.where(listed, labels, 0)
    classes = torch.arange(rows.size(1), device=rows.device)
    is_label = ((known.unsqueeze(2) == classes) & listed.unsqueeze(2)).any(1)
    excess = (1 - rows.gather(1, known).unsqueeze(2) + rows.unsqueeze(1)).relu()
    counts = listed.unsqueeze(2) & ~is_label.unsqueeze(1)
    terms = torch.where(counts, excess, 0.0).sum((1, 2)) / rows.size(1)
    return _reduced(terms if input.dim() > 1 else terms.squeeze(0), reduction)


def _reduced(terms: Tensor, reduction: int) -> Tensor:
    """``reduction`` as ``torch.nn._reduction`` numbers them: none, mean, sum."""
    return terms if reduction == 0 else terms.mean() if reduction == 1 else terms.sum()


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``torch.take_along_dim``: a gather, after sizes of 1 have been spread in every dim but ``dim``."""
    if dim is None:
        return input.flatten().gather(0, indices.flatten())
    dim = dim % input.dim()
    others = [d for d in range(input.dim()) if d != dim]
    shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        [input.size(d) for d in others], [indices.size(d) for d in others]
    )
    sizes = dict(zip(others, shape, strict=True))
    spread = [t.expand([sizes.get(d, t.size(dim)) for d in range(input.dim())]) for t in (input, indices)]
    return spread[0].gather(dim, spread[1])
