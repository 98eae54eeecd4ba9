"""Composite ops that are taken apart while a model is captured, so that the rules see their steps.

Only these, and only by PyTorch's own definitions of them: PyTorch differentiates a composite op through the very
same steps, so gradients stay its own. (The core-ATen table must not be used: it replaces ``detach`` by
``alias`` and doubles gradients silently.) Left out on purpose is what turns gradients off inside, such as
``cosine_similarity``: it has a rule instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

COMPOSITE = (
    # products
    "outer", "ger", "kron", "inner", "linalg_vecdot", "linalg_multi_dot", "chain_matmul",
    "_weight_norm",
    # norms
    "linalg_norm", "linalg_norm.ord_str", "linalg_matrix_norm", "linalg_matrix_norm.str_ord",
    # losses
    "kl_div", "pairwise_distance", "cosine_embedding_loss", "margin_ranking_loss",
    "triplet_margin_loss",
    "hinge_embedding_loss", "poisson_nll_loss",
    # shapes
    "tile", "movedim.intlist", "movedim.int", "swapaxes", "swapdims", "hsplit.int", "hsplit.array",
    "vsplit.int", "dsplit.int",
    "tensor_split.sections", "tensor_split.indices", "narrow", "atleast_1d", "atleast_2d", "atleast_3d",
    "atleast_1d.Sequence",
    "atleast_2d.Sequence", "atleast_3d.Sequence", "column_stack", "hstack",
    "dstack", "vstack", "meshgrid", "meshgrid.indexing", "cartesian_prod", "combinations", "view_as",
    "reshape_as", "ravel", "fliplr",
    "unflatten.int", "flatten_dense_tensors", "block_diag", "moveaxis.int", "moveaxis.intlist",
    # arithmetic
    "floor_divide", "trapezoid.dx", "trapezoid.x", "cumulative_trapezoid.dx", "nanmean",
    "linalg_matrix_power", "special_logsumexp", "special_softmax", "special_log_softmax",
    "special_expit",
)  # fmt: skip


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for ``ExportedProgram.run_decompositions``, which copies it; torch's own takes 30 ms to make."""
    defaults = torch.export.default_decompositions()
    table: dict[Any, Callable[..., Any]] = {}
    for name in COMPOSITE:
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is not None and op in defaults:
            table[op] = defaults[op]
    return table | own_definitions()


def own_definitions() -> dict[Any, Callable[..., Any]]:
    """The ops whose steps are written below, for PyTorch's own cannot be cut."""
    aten = torch.ops.aten
    return {
        aten.instance_norm.default: instance_norm,
        aten.bilinear.default: bilinear,
        aten.copy.default: copy,
        aten.tensordot.default: tensordot,
    }


def copy(self: Tensor, src: Tensor, _non_blocking: bool = False) -> Tensor:
    """What ``self.copy_(src)`` leaves in self; ``aten.copy`` has no derivative of its own."""
    return src.to(self.dtype).expand(self.shape)


def tensordot(self: Tensor, other: Tensor, dims_self: list[int], dims_other: list[int]) -> Tensor:
    """``torch.tensordot`` as an einsum: PyTorch's own folds all dims that stay into one, rows with features."""
    mine, theirs = (
        list(ascii_letters[: self.dim()]),
        list(ascii_letters[-other.dim() :] if other.dim() else ""),
    )
    for a, b in zip(dims_self, dims_other, strict=True):
        theirs[b] = mine[a]
    kept = [letter for letter in mine + theirs if (letter in mine) != (letter in theirs)]
    return torch.einsum(f"{''.join(mine)},{''.join(theirs)}->{''.join(kept)}", self, other)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.bilinear`` by its definition."""
    out = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return out if bias is None else out + bias


def instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,  # noqa: ARG001 (the schema's)
) -> Tensor:
    """``torch.nn.functional.instance_norm`` by its definition: PyTorch's own goes through a view ``[1, N * C]``.

    Source: Ulyanov, Vedaldi, Lempitsky: Instance Normalization, 2016; ``torch.nn.InstanceNorm1d``.
    """
    dims = list(range(2, input.dim()))
    shape = [1, -1] + [1] * len(dims)
    if use_input_stats:
        mean, var = input.mean(dims, keepdim=True), input.var(dims, unbiased=False, keepdim=True)
        if running_mean is not None and running_var is not None:
            count = 1
            for dim in dims:
                count = count * input.size(dim)
            unbiased = var.detach().mean(0).reshape(-1) * (count / (count - 1))
            running_mean.mul_(1 - momentum).add_(mean.detach().mean(0).reshape(-1) * momentum)
            running_var.mul_(1 - momentum).add_(unbiased * momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = running_mean.reshape(shape), running_var.reshape(shape)
    out = (input - mean) * torch.rsqrt(var + eps)
    if weight is not None:
        out = out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)
