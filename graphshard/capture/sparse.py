"""A stand-in for a sparse adjacency argument: ``torch.sparse.mm(adj, x)`` as a gather, a product and a sum.

torch.export knows no sparse tensors. The stand-in answers the calls that a model makes on ``adj`` with the
plain ops that have placement rules::

    torch.sparse.mm(adj, x)  ->  zeros(N, F).index_add(0, row, value[:, None] * x.index_select(0, col))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import CaptureError
from graphshard.private.torch_functions import SPARSE_MM


class SparseStandIn:
    """A sparse ``[N, N]`` matrix as int64 ``index`` ``[2, E]`` (row, column) and ``values`` ``[E]``."""

    def __init__(self, index: Tensor, values: Tensor) -> None:
        self.index, self.values_ = index, values

    @property
    def dtype(self) -> torch.dtype:
        return self.values_.dtype

    @property
    def device(self) -> torch.device:
        return self.values_.device

    @property
    def is_sparse(self) -> bool:
        return True

    @property
    def layout(self) -> torch.layout:
        return torch.sparse_coo

    def coalesce(self) -> SparseStandIn:
        return self

    def is_coalesced(self) -> bool:
        return True

    def to_sparse_csr(self) -> SparseStandIn:
        return self

    def indices(self) -> Tensor:
        """int64 ``[2, E]``; row 0 the destinations, row 1 the sources."""
        return self.index

    def values(self) -> Tensor:
        return self.values_

    def __matmul__(self, x: Tensor) -> Tensor:
        return _product(self, x)

    def mm(self, x: Tensor) -> Tensor:
        return _product(self, x)

    def matmul(self, x: Tensor) -> Tensor:
        return _product(self, x)

    def __getattr__(self, name: str) -> Any:
        raise CaptureError(
            f"the model uses adj.{name}, which is not supported on a sparse adjacency; products "
            "(torch.sparse.mm(adj, x), adj @ x), adj.indices() and adj.values() are: pass an edge_index for "
            "anything else"
        )

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        known: dict[str, Callable[..., Any]] = {
            SPARSE_MM: _product,
            "mm": _product,
            "spmm": _product,
            "matmul": _product,
            "addmm": _addmm,
        }
        if name not in known or kwargs:
            raise CaptureError(
                f"the model calls {name} on a sparse adjacency; only products adj @ x are supported: pass an "
                "edge_index and write the aggregation with index_add"
            )
        return known[name](*args)


def _product(adj: Any, x: Any) -> Tensor:
    if not isinstance(adj, SparseStandIn) or not isinstance(x, Tensor):
        raise CaptureError(
            "the model multiplies by a sparse adjacency from the right (x @ adj); pass the transposed "
            "adjacency and write adj @ x"
        )
    row, column = adj.index[0], adj.index[1]
    gathered = x.index_select(0, column)
    weights = adj.values_ if x.dim() == 1 else adj.values_.unsqueeze(-1)
    return x.new_zeros(x.shape).index_add(0, row, gathered * weights)


def _addmm(base: Tensor, adj: Any, x: Tensor) -> Tensor:
    return base + _product(adj, x)
